// The official Node SDKs, and Vercel's, against a running demo. The demo's first line of JSON is the only argument.

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const demo = JSON.parse(process.argv[2]);
const baseURL = `${demo.url}/v1`;
const apiKey = demo.inference_key;
const models = ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"];
const messages = [{ role: "user", content: "Say something." }];
const weather = [{ role: "user", content: "How is the weather in Bern?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

function check(what, holds) {
  console.log(`${holds ? "ok    " : "FAILED"} node: ${what}`);
  if (!holds) process.exit(1);
}

async function openai() {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  for (const model of models) {
    const stream = await client.chat.completions.create({
      model, messages, stream: true, stream_options: { include_usage: true },
    });
    let [text, tokens] = ["", 0];
    for await (const part of stream) {
      text += part.choices[0]?.delta?.content ?? "";
      tokens = part.usage?.total_tokens ?? tokens;
    }
    check(`streamed chat of ${model} with usage`, text && tokens > 0);
    const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
    const called = await client.chat.completions.create({ model, messages: weather, tools });
    const call = called.choices[0].message.tool_calls[0].function;
    check(`tool call of ${model}`, typeof JSON.parse(call.arguments).city === "string");
    const response = await client.responses.create({ model, input: "Say something." });
    check(`response of ${model}`, response.output_text && response.usage.total_tokens > 0);
    const events = client.responses.stream({ model, input: "Say something." });
    const whole = await events.finalResponse();
    check(`streamed response of ${model}`, whole.output[0].content[0].text && whole.usage.output_tokens > 0);
  }
  const failed = await client.chat.completions.create({ model: "no-such-model", messages }).catch((error) => error);
  check("no such model is a NotFoundError", failed instanceof OpenAI.NotFoundError);
}

async function anthropic() {
  const client = new Anthropic({ baseURL: demo.url, apiKey, maxRetries: 0 });
  for (const model of models) {
    const message = await client.messages.stream({ model, max_tokens: 100, messages }).finalMessage();
    check(`streamed message of ${model}`, message.content[0].text && message.usage.output_tokens > 0);
    const tools = [{ name: "get_weather", input_schema: parameters }];
    const called = await client.messages.create({ model, max_tokens: 100, messages: weather, tools });
    const call = called.content.find((block) => block.type === "tool_use");
    check(`tool use of ${model}`, typeof call.input.city === "string");
  }
  const asked = { model: "no-such-model", max_tokens: 9, messages };
  const failed = await client.messages.create(asked).catch((error) => error);
  check("no such model is a NotFoundError", failed instanceof Anthropic.NotFoundError);
}

async function vercel() {
  const providers = {
    "chat completions": createOpenAI({ baseURL, apiKey }).chat,
    responses: createOpenAI({ baseURL, apiKey }).responses,
    messages: createAnthropic({ baseURL, apiKey }),
  };
  for (const [name, provider] of Object.entries(providers)) {
    for (const model of models) {
      const prompt = "Say something.";
      const streamed = streamText({ model: provider(model), prompt, maxRetries: 0 });
      let text = "";
      for await (const part of streamed.textStream) text += part;
      const usage = await streamed.usage;
      check(`${name} of ${model}, streamed by the AI SDK`, text && usage.outputTokens > 0);
      const tools = { get_weather: tool({ description: "Weather", inputSchema: z.object({ city: z.string() }) }) };
      const asked = { model: provider(model), prompt: weather[0].content, tools, maxRetries: 0 };
      const { toolCalls } = await generateText(asked);
      check(`${name} of ${model}, a tool called by the AI SDK`, typeof toolCalls[0].input.city === "string");
    }
  }
}

await openai();
await anthropic();
await vercel();
