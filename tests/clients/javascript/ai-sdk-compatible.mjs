// The AI SDK with its provider for services that speak as OpenAI does; it prints the pictures as a JSON list.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const provider = createOpenAICompatible({
  name: "zimage",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
});
const { images } = await generateImage({
  model: provider.imageModel("Tongyi-MAI/Z-Image-Turbo"),
  prompt: "a red circle",
  size: "128x128",
  n: 2,
});
console.log(JSON.stringify(images.map((image) => image.base64)));
