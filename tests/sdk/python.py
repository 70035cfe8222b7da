"""The official Python SDKs against a running demo: what they ask is answered in their own words, errors as their own
classes. The arguments are the demo's first line of JSON, and where a node is whose providers are all down, or break."""

import json
import sys
import urllib.request

import anthropic
import openai
import pydantic

demo, dark = json.loads(sys.argv[1]), json.loads(sys.argv[2])
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {**TOOL, "additionalProperties": False}
MODELS = ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"]
SAY = [{"role": "user", "content": "Say something."}]
WEATHER = [{"role": "user", "content": "How is the weather in Bern?"}]

# One pixel.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Place(pydantic.BaseModel):
    city: str


def check(what, holds):
    print(("ok    " if holds else "FAILED") + " python: " + what)
    if not holds:
        sys.exit(1)


def operator(where, method, path, body):
    """Asks the operator's API."""
    headers = {"authorization": "Bearer " + where["operator_key"], "content-type": "application/json"}
    if method == "POST":
        headers["idempotency-key"] = f"{path} {json.dumps(body)}"[:200]
    data = json.dumps(body).encode()
    asked = urllib.request.Request(where["url"] + path, data=data, method=method, headers=headers)
    with urllib.request.urlopen(asked) as answer:
        return json.loads(answer.read() or b"null")


def org(where, slug, credits):
    """A new org with so many credits, and the secret of its key."""
    operator(where, "POST", "/api/v1/orgs", {"slug": slug, "name": slug})
    if credits:
        operator(where, "POST", f"/api/v1/orgs/{slug}/grants", {"credits": credits, "kind": "goodwill"})
    return operator(where, "POST", f"/api/v1/orgs/{slug}/keys", {"name": "sdk", "role": "inference"})["secret"]


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
        called = openai.pydantic_function_tool(Place, name="get_weather")
        with client.chat.completions.stream(model=model, messages=WEATHER, tools=[called]) as stream:
            kinds = {event.type for event in stream}
            whole = stream.get_final_completion().choices[0]
        given = whole.message.tool_calls[0].function.parsed_arguments
        grown = "tool_calls.function.arguments.delta" in kinds and whole.finish_reason == "tool_calls"
        check(f"streamed tool call of {model}", grown and isinstance(given, Place))
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
        parsed = client.chat.completions.parse(model=model, messages=SAY, response_format=Place)
        check(f"output of {model} as a class", isinstance(parsed.choices[0].message.parsed, Place))
        shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE, "detail": "low"}}
        content = [{"type": "text", "text": "What is this?"}, shown]
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
        check(f"answer of {model} to a picture", answer.choices[0].message.content)
    for model, size in [("text-embedding-3-small", 1536), ("gemini-embedding-001", 3072)]:
        embedded = client.embeddings.create(model=model, input=["one", "two"])
        fits = len(embedded.data) == 2 and len(embedded.data[1].embedding) == size
        check(f"embeddings of {model}", fits and embedded.usage.total_tokens > 0)
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
        with client.responses.stream(model=model, input=WEATHER, tools=[tool]) as stream:
            deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
            streamed = stream.get_final_response().output[-1].arguments
        whole = streamed == "".join(deltas) and isinstance(json.loads(streamed)["city"], str)
        check(f"streamed function call of {model}", whole)
        parsed = client.responses.parse(model=model, input="Say something.", text_format=Place)
        check(f"response of {model} as a class", isinstance(parsed.output_parsed, Place))
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
        with client.messages.stream(model=model, max_tokens=100, messages=WEATHER, tools=tools) as stream:
            parts = [event.partial_json for event in stream if event.type == "input_json"]
            whole = stream.get_final_message()
        used = whole.content[-1].input
        check(f"streamed tool use of {model}", json.loads("".join(parts)) == used and isinstance(used["city"], str))
        parsed = client.messages.parse(model=model, max_tokens=100, messages=SAY, output_format=Place)
        check(f"message of {model} as a class", isinstance(parsed.parsed_output, Place))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
        told = {"role": "user", "content": [result]}
        answer = client.messages.create(model=model, max_tokens=100, messages=[*WEATHER, said, told], tools=tools)
        check(f"message of {model} to a tool's result", answer.content[-1].text)
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        shown = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]}
        answer = client.messages.create(model=model, max_tokens=100, messages=[shown])
        check(f"message of {model} about a picture", answer.content[0].text)
        counted = client.messages.count_tokens(model=model, messages=SAY)
        check(f"tokens counted for {model}", counted.input_tokens > 0)
    names = [model.id for model in client.models.list()]
    check("models in Anthropic's form", set(MODELS) <= set(names) and client.models.retrieve(MODELS[1]).id == MODELS[1])


def errors(dialect, ask):
    """Each class of failure arrives as the SDK's own. `ask(where, key, **more)` asks in one dialect."""
    name = dialect.__name__

    def fails(what, kind, status, *asked, **more):
        try:
            ask(*asked, **more)
            check(what, False)
        except dialect.APIStatusError as error:
            right = type(error) is kind and error.status_code == status
            check(f"{name}: {what} is answered by {kind.__name__}", right)
            return error

    def retry_after(what, error):
        check(f"{name}: {what} says when to come back", int(error.response.headers["retry-after"]) > 0)

    good, model = demo["inference_key"], MODELS[0]
    fails("no such key", dialect.AuthenticationError, 401, demo, "tg_none")
    fails("no such model", dialect.NotFoundError, 404, demo, good, model="no-such-model")
    fails("no message", dialect.BadRequestError, 400, demo, good, messages=[])
    unbound = [{"type": "web_search", "name": "web_search"}]
    fails("a tool without a bound", dialect.UnprocessableEntityError, 422, demo, good, model=model, tools=unbound)
    poor = org(demo, f"sdk-{name}-poor", None)
    # Not every SDK has a class for each status.
    unpaid = getattr(dialect, "PaymentRequiredError", dialect.APIStatusError)
    error = fails("no credits", unpaid, 402, demo, poor)
    check(f"{name}: no SDK tries again for money", error.response.headers["x-should-retry"] == "false")
    limited = org(demo, f"sdk-{name}-limited", "5")
    limits = {"limits": [{"scope": "org", "requests_per_minute": 1}]}
    operator(demo, "PUT", f"/api/v1/orgs/sdk-{name}-limited/limits", limits)
    ask(demo, limited)
    retry_after("a limit", fails("too many requests", dialect.RateLimitError, 429, demo, limited))
    rich = org(dark, f"sdk-{name}", "5")
    unavailable = getattr(dialect, "ServiceUnavailableError", dialect.InternalServerError)
    retry_after("an outage", fails("no provider", unavailable, 503, dark, rich))
    retry_after("one of a stream", fails("no provider of a stream", unavailable, 503, dark, rich, stream=True))


def broken_streams():
    """A stream that fails midway raises: half an answer is never taken for the whole."""
    key, model = org(dark, "sdk-python-broken", "5"), MODELS[2]
    openais = openai.OpenAI(base_url=dark["url"] + "/v1", api_key=key, max_retries=0)
    claudes = anthropic.Anthropic(base_url=dark["url"], api_key=key, max_retries=0)
    chats, responses, messages = openais.chat.completions, openais.responses, claudes.messages
    for name, kind, ask in [
        ("chat", openai.APIError, lambda: chats.create(model=model, messages=SAY, stream=True)),
        ("response", openai.APIError, lambda: responses.create(model=model, input=SAY, stream=True)),
        ("message", anthropic.APIError, lambda: messages.create(model=model, messages=SAY, max_tokens=100, stream=True)),
    ]:
        parts = 0
        try:
            for _ in ask():
                parts += 1
            check(f"a broken stream of a {name} raises", False)
        except kind as error:
            check(f"a broken stream of a {name} raises", parts > 0 and error.message)


def chat(where, key, **more):
    client = openai.OpenAI(base_url=where["url"] + "/v1", api_key=key, max_retries=0)
    client.chat.completions.create(**{"model": MODELS[0], "messages": SAY, **more})


def message(where, key, **more):
    client = anthropic.Anthropic(base_url=where["url"], api_key=key, max_retries=0)
    client.messages.create(**{"model": MODELS[1], "messages": SAY, "max_tokens": 9, **more})


chat_completions()
responses()
messages()
errors(openai, chat)
errors(anthropic, message)
broken_streams()
