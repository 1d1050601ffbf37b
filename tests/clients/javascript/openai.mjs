// OpenAI's own client; it prints the pictures as a JSON list.
import OpenAI from "openai";

const client = new OpenAI();
const { data } = await client.images.generate({ model: "gpt-image-1", prompt: "a red circle", size: "128x128", n: 2 });
console.log(JSON.stringify(data.map((image) => image.b64_json)));
