// LangChain's wrapper of DALL·E; it prints the pictures' URLs as a JSON list.
import { DallEAPIWrapper } from "@langchain/openai";

const tool = new DallEAPIWrapper({ model: "dall-e-3", size: "256x256" });
console.log(JSON.stringify([await tool.invoke("a red circle on white")]));
