//! Whether a conversation fits its model, checked before it is sent, where its route has a policy for inputs that do not.
//!
//! Nothing here is about money: holds are taken for bounds.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use crate::domain::routing::ContextFit;
use crate::gateway::State;
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::plan::{Plan, Prices};
use crate::gateway::providers;
use crate::gateway::target::Target;
use crate::gateway::token_count::{self, TokenCount, message_tokens, of_family};

/// Makes the request fit the plan, or the plan the request, by the route's policy. Where neither works, the request goes to the
/// target that the route names for inputs that are too long, or is refused.
pub fn fit(
    state: &State,
    prices: &Prices,
    request: &mut Arc<Request>,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let (Some(policy), Endpoint::Generate(dialect)) = (plan.policy.context_fit, request.endpoint) else {
        return Ok(());
    };
    let output = Output { limit_tokens: providers::asked_output_tokens(dialect.into(), &request.body) };
    // A token has a byte or more: most requests need no counting.
    let surely_fits = |target: &Target| output.fits_with(target, request.bytes as u64);
    let Some(first) = plan.targets.first().cloned() else { return Ok(()) };
    if plan.targets.iter().all(surely_fits) {
        return Ok(());
    }
    let tokens = request.tokens();
    let fitted = match policy {
        ContextFit::Refuse => refuse(plan, &first, &output, tokens),
        ContextFit::LargerModel => take_larger(plan, &first, &output, tokens),
        ContextFit::TrimOldest => trim(request, plan, &output, tokens),
    };
    let Err(too_long) = fitted else { return Ok(()) };
    let Some(to) = plan.policy.on_context_length.take() else { return Err(too_long) };
    let mut found = plan.targets_of(state, prices, request, &to);
    found.targets.retain(|target| output.fits(target, tokens));
    if found.targets.is_empty() {
        return Err(too_long);
    }
    plan.degrade_to(found);
    plan.pass_over(&first, FailureCode::ContextLengthExceeded);
    Ok(())
}

/// Refuses what the first target as written can't take, the largest of those that share its place: neither the draw nor an
/// outage decides. Smaller ones are passed over.
fn refuse(plan: &mut Plan, first: &Target, output: &Output, tokens: u64) -> Result<(), Failure> {
    let place = plan.targets.iter().map(|target| target.group).min();
    let written = plan.targets.iter().filter(|target| Some(target.group) == place).max_by_key(by_window);
    let written = written.unwrap_or(first);
    if !output.fits(written, tokens) {
        return Err(output.too_long(written, tokens));
    }
    take_larger(plan, first, output, tokens)
}

/// Leaves only targets that are large enough.
fn take_larger(plan: &mut Plan, first: &Target, output: &Output, tokens: u64) -> Result<(), Failure> {
    let largest = plan.targets.iter().max_by_key(by_window).cloned();
    plan.targets.retain(|target| output.fits(target, tokens));
    if plan.targets.is_empty() {
        return Err(output.too_long(largest.as_ref().unwrap_or(first), tokens));
    }
    if !output.fits(first, tokens) {
        plan.pass_over(first, FailureCode::ContextLengthExceeded);
    }
    Ok(())
}

/// Leaves out the oldest turns, and then the targets for which what is left is too long still.
fn trim(request: &mut Arc<Request>, plan: &mut Plan, output: &Output, tokens: u64) -> Result<(), Failure> {
    // The draw is not to cost turns where another one that shares the first place takes all of them.
    let is_first = |target: &Target| target.group == plan.targets[0].group && output.fits(target, tokens);
    if let Some(place) = plan.targets.iter().position(is_first) {
        plan.targets[..=place].rotate_right(1);
    }
    let first = plan.targets[0].clone();
    let field = conversation_field(request.endpoint.dialect());
    let messages = request.body[field].as_array().map(Vec::as_slice).unwrap_or_default();
    // What an operator's prompt brings stays, as instructions do.
    let brought = request.prompt.as_ref().map_or(0, |prompt| prompt.messages);
    let own = messages.get(brought..).unwrap_or_default();
    let fits = |tokens| output.fits(&first, tokens);
    let (begin, left) = token_count::aside(request.bytes, || fitting_turns(own, tokens, fits));
    if !output.fits(&first, left) {
        return Err(output.too_long(&first, left));
    }
    if begin > 0 {
        let request = Arc::make_mut(request);
        request.token_count = TokenCount::known(left);
        plan.trimmed_messages += drop_within(brought..brought + begin, &mut request.body[field]);
    }
    plan.targets.retain(|target| output.fits(target, left));
    Ok(())
}

/// Where the messages have to begin so that they fit, if they ever do, and how many of `tokens` are left then.
fn fitting_turns(messages: &[Value], tokens: u64, fits: impl Fn(u64) -> bool) -> (usize, u64) {
    let (mut left, mut begin) = (tokens, 0);
    for end in ends_of_turns(messages) {
        if fits(left) {
            break;
        }
        let gone = messages[begin..end].iter().filter(|message| !instructs(message));
        left = left.saturating_sub(gone.map(message_tokens).sum());
        begin = end;
    }
    (begin, left)
}

fn window(target: &Target) -> Option<u64> {
    target.card.context_window_tokens
}

/// One whose window nobody knows is taken to be the largest.
fn by_window(target: &&Target) -> u64 {
    window(target).unwrap_or(u64::MAX)
}

/// The output limit that the caller set.
struct Output {
    limit_tokens: Option<u64>,
}

impl Output {
    /// The part of it that the window must hold in addition to the input.
    fn beside_input(&self, target: &Target) -> u64 {
        let limit_tokens = self.limit_tokens.filter(|_| target.window_of_both().is_some());
        limit_tokens.map_or(0, |limit| limit.min(target.output_tokens_max()))
    }

    fn fits(&self, target: &Target, tokens: u64) -> bool {
        self.fits_with(target, of_family(target.upstream.family, tokens))
    }

    /// Whether the target takes this many tokens, counted by its own tokenizer.
    fn fits_with(&self, target: &Target, tokens: u64) -> bool {
        let whole = tokens.saturating_add(self.beside_input(target));
        window(target).is_none_or(|window| whole <= window)
    }

    fn too_long(&self, target: &Target, tokens: u64) -> Failure {
        let tokens = of_family(target.upstream.family, tokens);
        let window = window(target).unwrap_or_default();
        let (output, remedy) = match self.beside_input(target) {
            0 => (String::new(), "Send a shorter one."),
            limit => (format!(" and an output limit of {limit}"), "Send a shorter one, or a lower limit."),
        };
        let model = &target.model;
        let words = format!(
            "This request has about {tokens} input tokens{output}, and {model} takes {window}. {remedy}"
        );
        Failure::new(400, FailureCode::ContextLengthExceeded, words)
    }
}

fn conversation_field(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenaiResponses => "input",
        Dialect::OpenaiChat | Dialect::AnthropicMessages => "messages",
    }
}

/// The ends of the turns that can be removed, oldest first: a user message and everything until the next one, so that no
/// tool's result is left without its call. The last turn stays.
fn ends_of_turns(messages: &[Value]) -> Vec<usize> {
    let mut begins = (0..messages.len()).filter(|place| begins_turn(&messages[*place]));
    let Some(first) = begins.next() else { return Vec::new() };
    let later: Vec<usize> = begins.collect();
    // Messages before the first turn are removed with it.
    let is_alone = later.is_empty() && messages[..first].iter().any(|message| !instructs(message));
    if is_alone { vec![first] } else { later }
}

/// Removes the messages of these places, except for instructions; returns how many were removed.
fn drop_within(places: Range<usize>, messages: &mut Value) -> usize {
    let Some(messages) = messages.as_array_mut() else { return 0 };
    let before = messages.len();
    let mut place = 0;
    messages.retain(|message| {
        let stays = !places.contains(&place) || instructs(message);
        place += 1;
        stays
    });
    before - messages.len()
}

fn instructs(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
}

/// Whether a user speaks, rather than a tool in a user's message.
fn begins_turn(message: &Value) -> bool {
    let is_of_tool = |part: &Value| part["type"] == "tool_result";
    message["role"] == "user"
        && !message["content"].as_array().is_some_and(|parts| parts.iter().any(is_of_tool))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is left, by role or kind, after each turn that can go.
    fn left(messages: &Value) -> Vec<Vec<&str>> {
        let after = |end| {
            let mut left = messages.clone();
            let gone = drop_within(0..end, &mut left);
            let whole = messages.as_array().expect("messages");
            let kept = left.as_array().expect("messages").clone();
            assert_eq!(whole.len() - kept.len(), gone);
            let kept = whole.iter().filter(move |message| kept.contains(message));
            kept.map(|message| message["role"].as_str().or(message["type"].as_str()).expect("a name"))
                .collect()
        };
        ends_of_turns(messages.as_array().expect("messages")).into_iter().map(after).collect()
    }

    #[test]
    fn turns_go_oldest_first_with_their_tools_and_the_last_one_stays() {
        let chat = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "tool_calls": [{"id": "a"}]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "assistant", "content": "1."},
            {"role": "developer", "content": "In French."},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "2."},
            {"role": "user", "content": "three"},
            {"role": "assistant", "tool_calls": [{"id": "c"}]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
        ]);
        let last = ["system", "developer", "user", "assistant", "tool"];
        let two = ["system", "developer", "user", "assistant", "user", "assistant", "tool"];
        assert_eq!(left(&chat), [&two[..], &last[..]]);

        let messages = json!([
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
            {"role": "assistant", "content": "1."},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
        ]);
        assert_eq!(left(&messages), [["user"]]);

        let call = |id: &str| {
            let of = |kind: &str| json!({"type": kind, "call_id": id});
            [of("function_call"), of("function_call_output")]
        };
        let [before, within] = [call("z"), call("a")];
        let user = |text: &str| [json!({"role": "user", "content": text})];
        let responses: Value =
            before.iter().chain(&user("one")).chain(&within).chain(&user("two")).cloned().collect();
        assert_eq!(left(&responses), [["user"]]);
        let alone: Value = before.iter().chain(&user("one")).chain(&within).cloned().collect();
        assert_eq!(left(&alone), [["user", "function_call", "function_call_output"]]);
        assert!(
            left(&json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]))
                .is_empty()
        );
        assert_eq!(drop_within(0..1, &mut json!("one")), 0);
    }

    #[test]
    fn each_message_is_looked_at_once_however_many_turns_go() {
        let turn = |nth: usize| {
            [json!({"role": "user", "content": nth}), json!({"role": "assistant", "content": nth})]
        };
        let messages: Vec<Value> = (0..100_000).flat_map(turn).collect();

        let ends = ends_of_turns(&messages);
        let mut left = Value::from(messages);

        assert_eq!(ends.len(), 99_999);
        assert_eq!(drop_within(0..ends[99_998], &mut left), 199_998);
        assert_eq!(left.as_array().map(Vec::len), Some(2));
    }
}
