// The official Node SDKs, and Vercel's, against a running demo. The arguments are the demo's first line of JSON, and where
// a node is whose providers are all down.

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [demo, dark] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const baseURL = `${demo.url}/v1`;
const apiKey = demo.inference_key;
const models = ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"];
const messages = [{ role: "user", content: "Say something." }];
const weather = [{ role: "user", content: "How is the weather in Bern?" }];
const place = z.object({ city: z.string() });
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
    const calling = client.chat.completions.stream({ model, messages: weather, tools });
    const [{ message: grown, finish_reason: reason }] = (await calling.finalChatCompletion()).choices;
    const streamedCity = JSON.parse(grown.tool_calls[0].function.arguments).city;
    check(`streamed tool call of ${model}`, reason === "tool_calls" && typeof streamedCity === "string");
    const formed = await client.chat.completions.parse({
      model, messages, response_format: zodResponseFormat(place, "place"),
    });
    check(`structured output of ${model}`, typeof formed.choices[0].message.parsed.city === "string");
    const response = await client.responses.create({ model, input: "Say something." });
    check(`response of ${model}`, response.output_text && response.usage.total_tokens > 0);
    const events = client.responses.stream({ model, input: "Say something." });
    const whole = await events.finalResponse();
    check(`streamed response of ${model}`, whole.output[0].content[0].text && whole.usage.output_tokens > 0);
    const functions = [{ type: "function", name: "get_weather", parameters, strict: false }];
    const asking = client.responses.stream({ model, input: weather, tools: functions });
    const item = (await asking.finalResponse()).output.at(-1);
    check(`streamed function call of ${model}`, typeof JSON.parse(item.arguments).city === "string");
    const form = { format: zodTextFormat(place, "place") };
    const parsed = await client.responses.parse({ model, input: "Say something.", text: form });
    check(`structured response of ${model}`, typeof parsed.output_parsed.city === "string");
  }
  const embedded = await client.embeddings.create({ model: "gemini-embedding-2", input: ["one", "two"] });
  check("embeddings by Gemini", embedded.data.length === 2 && embedded.data[0].embedding.length === 3072);
  const names = [];
  for await (const { id } of client.models.list()) names.push(id);
  const one = await client.models.retrieve(models[0]);
  check("models", models.every((model) => names.includes(model)) && one.id === models[0]);
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
    const using = client.messages.stream({ model, max_tokens: 100, messages: weather, tools });
    const used = (await using.finalMessage()).content.find((block) => block.type === "tool_use");
    check(`streamed tool use of ${model}`, typeof used.input.city === "string");
    const output_config = { format: zodOutputFormat(place) };
    const parsed = await client.messages.parse({ model, max_tokens: 100, messages, output_config });
    check(`structured message of ${model}`, typeof parsed.parsed_output.city === "string");
  }
  const names = [];
  for await (const { id } of client.models.list()) names.push(id);
  check("models in Anthropic's form", models.every((model) => names.includes(model)));
}

async function operator(where, method, path, body) {
  const headers = { authorization: `Bearer ${where.operator_key}`, "content-type": "application/json" };
  if (method === "POST") headers["idempotency-key"] = `${path} ${JSON.stringify(body)}`.slice(0, 200);
  const answer = await fetch(where.url + path, { method, headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return answer.json();
}

// A new org with so many credits, and the secret of its key.
async function org(where, slug, credits) {
  await operator(where, "POST", "/api/v1/orgs", { slug, name: slug });
  if (credits) await operator(where, "POST", `/api/v1/orgs/${slug}/grants`, { credits, kind: "goodwill" });
  const key = await operator(where, "POST", `/api/v1/orgs/${slug}/keys`, { name: "sdk", role: "inference" });
  return key.secret;
}

// Each class of failure arrives as the SDK's own. `ask(where, key, more)` asks in one dialect.
async function errors(sdk, name, ask) {
  async function fails(what, kind, status, where, key, more) {
    const error = await ask(where, key, more).then(() => null, (error) => error);
    const right = error?.constructor === kind && error.status === status;
    check(`${name}: ${what} is answered by ${kind.name}`, right);
    return error;
  }
  function retryAfter(what, error) {
    check(`${name}: ${what} says when to come back`, Number(error.headers.get("retry-after")) > 0);
  }
  await fails("no such key", sdk.AuthenticationError, 401, demo, "tg_none");
  await fails("no such model", sdk.NotFoundError, 404, demo, apiKey, { model: "no-such-model" });
  await fails("no message", sdk.BadRequestError, 400, demo, apiKey, { messages: [] });
  const unbound = { model: models[0], tools: [{ type: "web_search", name: "web_search" }] };
  await fails("a tool without a bound", sdk.UnprocessableEntityError, 422, demo, apiKey, unbound);
  const poor = await org(demo, `sdk-node-${name}-poor`);
  // Not every SDK has a class for each status.
  const broke = await fails("no credits", sdk.PaymentRequiredError ?? sdk.APIError, 402, demo, poor);
  check(`${name}: no SDK tries again for money`, broke.headers.get("x-should-retry") === "false");
  const slug = `sdk-node-${name}-limited`;
  const limited = await org(demo, slug, "5");
  const limits = [{ scope: "org", requests_per_minute: 1 }];
  await operator(demo, "PUT", `/api/v1/orgs/${slug}/limits`, { limits });
  await ask(demo, limited);
  retryAfter("a limit", await fails("too many requests", sdk.RateLimitError, 429, demo, limited));
  const rich = await org(dark, `sdk-node-${name}`, "5");
  const unavailable = sdk.ServiceUnavailableError ?? sdk.InternalServerError;
  retryAfter("an outage", await fails("no provider", unavailable, 503, dark, rich));
  const streamed = await fails("no provider of a stream", unavailable, 503, dark, rich, { stream: true });
  retryAfter("one of a stream", streamed);
}

function chat(where, key, more) {
  const client = new OpenAI({ baseURL: `${where.url}/v1`, apiKey: key, maxRetries: 0 });
  return client.chat.completions.create({ model: models[0], messages, ...more });
}

function message(where, key, more) {
  const client = new Anthropic({ baseURL: where.url, apiKey: key, maxRetries: 0 });
  return client.messages.create({ model: models[1], messages, max_tokens: 9, ...more });
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
      const tools = { get_weather: tool({ description: "Weather", inputSchema: place }) };
      const asked = { model: provider(model), prompt: weather[0].content, tools, maxRetries: 0 };
      const { toolCalls } = await generateText(asked);
      check(`${name} of ${model}, a tool called by the AI SDK`, typeof toolCalls[0].input.city === "string");
      const [called] = await streamText(asked).toolCalls;
      check(`${name} of ${model}, a tool called in a stream by the AI SDK`, typeof called.input.city === "string");
      const output = Output.object({ schema: place });
      const formed = await generateText({ model: provider(model), prompt, output, maxRetries: 0 });
      check(`${name} of ${model}, an object by the AI SDK`, typeof formed.output.city === "string");
    }
  }
  const model = createOpenAI({ baseURL, apiKey }).embedding("text-embedding-3-small");
  const { embeddings, usage } = await embedMany({ model, values: ["one", "two"], maxRetries: 0 });
  check("embeddings by the AI SDK", embeddings.length === 2 && embeddings[0].length === 1536 && usage.tokens > 0);
}

// Nothing is stored, so that the SDK must send its earlier answers whole, which it does where it is told.
async function turns() {
  const { responses } = createOpenAI({ baseURL, apiKey });
  const options = { openai: { store: false } };
  for (const model of models) {
    const asked = { model: responses(model), providerOptions: options, maxRetries: 0 };
    const first = await generateText({ ...asked, messages });
    const more = [...messages, ...first.response.messages, { role: "user", content: "And more." }];
    const second = await generateText({ ...asked, messages: more });
    check(`responses of ${model}, a second turn by the AI SDK`, first.text && second.text);
    const stored = { model: responses(model), messages: more, maxRetries: 0 };
    const refused = await generateText(stored).then(() => null, (error) => error);
    check(`${model}: a turn by reference says what to do`, refused?.statusCode === 422 && /store: false/.test(refused.message));
  }
}

await openai();
await anthropic();
await vercel();
await turns();
await errors(OpenAI, "openai", chat);
await errors(Anthropic, "anthropic", message);
