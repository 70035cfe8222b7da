"""The official Python SDKs against a running demo: what they ask is answered in their own words, errors as their own
classes. The demo's first line of JSON is the only argument."""

import json
import sys
import urllib.request

import anthropic
import openai

demo = json.loads(sys.argv[1])
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {**TOOL, "additionalProperties": False}
MODELS = ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"]
SAY = [{"role": "user", "content": "Say something."}]
WEATHER = [{"role": "user", "content": "How is the weather in Bern?"}]


def check(what, holds):
    print(("ok    " if holds else "FAILED") + " python: " + what)
    if not holds:
        sys.exit(1)


def operator(method, path, body):
    """Asks the operator's API."""
    headers = {"authorization": "Bearer " + demo["operator_key"], "content-type": "application/json"}
    if method == "POST":
        headers["idempotency-key"] = f"{path} {json.dumps(body)}"[:200]
    data = json.dumps(body).encode()
    asked = urllib.request.Request(demo["url"] + path, data=data, method=method, headers=headers)
    with urllib.request.urlopen(asked) as answer:
        return json.loads(answer.read() or b"null")


def org(slug, credits):
    """A new org with so many credits, and the secret of its key."""
    operator("POST", "/api/v1/orgs", {"slug": slug, "name": slug})
    if credits:
        operator("POST", f"/api/v1/orgs/{slug}/grants", {"credits": credits, "kind": "goodwill"})
    return operator("POST", f"/api/v1/orgs/{slug}/keys", {"name": "sdk", "role": "inference"})["secret"]


def chat_completions():
    client = openai.OpenAI(base_url=demo["url"] + "/v1", api_key=demo["inference_key"])
    for model in MODELS:
        answer = client.chat.completions.create(model=model, messages=SAY)
        check(f"chat of {model}", answer.choices[0].message.content and answer.usage.total_tokens > 0)
        options = {"include_usage": True}
        parts = list(client.chat.completions.create(model=model, messages=SAY, stream=True, stream_options=options))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        check(f"streamed chat of {model} with usage", text and parts[-1].usage.completion_tokens > 0)
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": TOOL}}]
        answer = client.chat.completions.create(model=model, messages=WEATHER, tools=tools)
        message = answer.choices[0].message
        call = message.tool_calls[0]
        check(f"tool call of {model}", isinstance(json.loads(call.function.arguments)["city"], str))
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        answer = client.chat.completions.create(
            model=model, messages=[*WEATHER, message.model_dump(exclude_none=True), result], tools=tools
        )
        check(f"answer of {model} to a tool's result", answer.choices[0].message.content)
        schema = {"name": "place", "schema": SCHEMA, "strict": True}
        answer = client.chat.completions.create(
            model=model, messages=SAY, response_format={"type": "json_schema", "json_schema": schema}
        )
        check(f"structured output of {model}", isinstance(json.loads(answer.choices[0].message.content)["city"], str))
    embedded = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    check("embeddings", len(embedded.data) == 2 and len(embedded.data[0].embedding) == 1536)
    names = [model.id for model in client.models.list()]
    check("models", set(MODELS) <= set(names) and client.models.retrieve(MODELS[0]).id == MODELS[0])


def responses():
    client = openai.OpenAI(base_url=demo["url"] + "/v1", api_key=demo["inference_key"])
    for model in MODELS:
        answer = client.responses.create(model=model, input="Say something.")
        check(f"response of {model}", answer.output_text and answer.usage.total_tokens > 0)
        with client.responses.stream(model=model, input="Say something.") as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            whole = stream.get_final_response()
        check(f"streamed response of {model}", text == whole.output_text and whole.usage.output_tokens > 0)
        tool = {"type": "function", "name": "get_weather", "parameters": TOOL, "strict": False}
        answer = client.responses.create(model=model, input=WEATHER, tools=[tool])
        call = answer.output[-1]
        check(f"function call in a response of {model}", isinstance(json.loads(call.arguments)["city"], str))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        given = call.model_dump(exclude_none=True)
        answer = client.responses.create(model=model, input=[*WEATHER, given, result], tools=[tool])
        check(f"response of {model} to a function's output", answer.output_text)
    try:
        client.responses.create(model=MODELS[0], input="x", previous_response_id="resp_1")
        check("a stored conversation is refused", False)
    except openai.UnprocessableEntityError as error:
        check("a stored conversation is refused", "previous_response_id" in str(error))


def messages():
    client = anthropic.Anthropic(base_url=demo["url"], api_key=demo["inference_key"])
    for model in MODELS:
        answer = client.messages.create(model=model, max_tokens=100, messages=SAY)
        check(f"message of {model}", answer.content[0].text and answer.usage.output_tokens > 0)
        with client.messages.stream(model=model, max_tokens=100, messages=SAY) as stream:
            text = "".join(stream.text_stream)
            whole = stream.get_final_message()
        check(f"streamed message of {model}", text == whole.content[0].text and whole.usage.output_tokens > 0)
        tools = [{"name": "get_weather", "input_schema": TOOL}]
        answer = client.messages.create(model=model, max_tokens=100, messages=WEATHER, tools=tools)
        call = next(block for block in answer.content if block.type == "tool_use")
        check(f"tool use of {model}", answer.stop_reason == "tool_use" and isinstance(call.input["city"], str))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
        told = {"role": "user", "content": [result]}
        answer = client.messages.create(model=model, max_tokens=100, messages=[*WEATHER, said, told], tools=tools)
        check(f"message of {model} to a tool's result", answer.content[-1].text)
        counted = client.messages.count_tokens(model=model, messages=SAY)
        check(f"tokens counted for {model}", counted.input_tokens > 0)


def errors():
    def client(key):
        return openai.OpenAI(base_url=demo["url"] + "/v1", api_key=key, max_retries=0)

    def fails(what, kind, status, ask):
        try:
            ask()
            check(what, False)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            check(f"{what} is answered by {kind.__name__}", type(error) is kind and error.status_code == status)
            return error

    def chat(key, **more):
        asked = {"model": MODELS[0], "messages": SAY, **more}
        return lambda: client(key).chat.completions.create(**asked)

    good = demo["inference_key"]
    fails("no such key", openai.AuthenticationError, 401, chat("tg_none"))
    fails("no such model", openai.NotFoundError, 404, chat(good, model="no-such-model"))
    fails("no message", openai.BadRequestError, 400, chat(good, messages=[]))
    what = {"type": "web_search"}
    fails("a tool without a bound", openai.UnprocessableEntityError, 422, chat(good, tools=[what]))
    fails("no credits", openai.APIStatusError, 402, chat(org("sdk-python-poor", None)))
    limited = org("sdk-python-limited", "5")
    operator("PUT", "/api/v1/orgs/sdk-python-limited/limits", {"limits": [{"scope": "org", "requests_per_minute": 1}]})
    chat(limited)()
    error = fails("too many requests", openai.RateLimitError, 429, chat(limited))
    check("it says when to come back", int(error.response.headers["retry-after"]) > 0)
    claude = anthropic.Anthropic(base_url=demo["url"], api_key="tg_none", max_retries=0)
    asked = {"model": MODELS[1], "max_tokens": 9, "messages": SAY}
    fails("no such key", anthropic.AuthenticationError, 401, lambda: claude.messages.create(**asked))
    claude = anthropic.Anthropic(base_url=demo["url"], api_key=good, max_retries=0)
    asked["model"] = "no-such-model"
    fails("no such model", anthropic.NotFoundError, 404, lambda: claude.messages.create(**asked))


chat_completions()
responses()
messages()
errors()
