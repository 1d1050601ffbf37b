// The AI SDK with its provider for OpenAI, which asks for ten pictures at most in a request and so splits these twelve; it
// prints them as a JSON list.
import { openai } from "@ai-sdk/openai";
import { generateImage } from "ai";

const { images } = await generateImage({
  model: openai.image("gpt-image-1"),
  prompt: "a red circle",
  size: "128x128",
  n: 12,
});
console.log(JSON.stringify(images.map((image) => image.base64)));
