//! Experiments on the way of real requests: arms, caps, shadows, failures, and what the ledger keeps of them.

use super::*;
use crate::domain::account::Ended;
use crate::domain::ids::ReservationId;
use crate::domain::routing::{Arm, Experiment, StickyBy};

/// Pays for shadows.
const LAB: OrgId = OrgId(Uuid::from_u128(0x1AB));

fn arm(name: &str, percent: u8, chain: &[&str]) -> Arm {
    let chain = chain.iter().map(|to| (*to).to_owned()).collect();
    Arm { name: name.into(), percent, chain, credits_per_org: None, shadow_paid_by: None }
}

fn on_chat(sticky_by: StickyBy, arms: Vec<Arm>) -> Experiment {
    Experiment { name: "small".into(), route: "chat".into(), sticky_by, orgs: [].into(), arms }
}

impl World {
    async fn tried(weather: &str, experiment: Experiment) -> World {
        let route = json!({"name": "chat", "chain": ["openai/gpt-4o"], "retries": 0});
        World::tried_on(route, weather, experiment).await
    }

    async fn tried_on(route: Value, weather: &str, experiment: Experiment) -> World {
        let world = World::routed("5", weather, json!([route])).await;
        assert_eq!(experiment.check(), Ok(()));
        let start = SystemCommand::StartExperiment { experiment };
        world.ledger.submit_system(start, None, None).await.expect("starts");
        world
    }

    async fn ask(&self, user: &str) -> reqwest::Response {
        let mut body = chat("chat");
        body["user"] = user.into();
        self.post("/v1/chat/completions", body).await
    }

    async fn command(&self, org: OrgId, command: OrgCommand) {
        let submission = Submission::by_tollgate(org, command);
        self.ledger.submit(submission).await.expect("runs");
    }

    async fn allot(&self, credits: &str) {
        let credits = Some(credits.parse().expect("credits"));
        self.command(ACME, OrgCommand::AllotArm { arm: "small/mini".into(), credits }).await;
    }

    async fn open_lab(&self, credits: &str) {
        open_org(&self.ledger, LAB, "lab", credits).await;
    }

    async fn settles(&self, org: OrgId) -> Vec<(Purpose, Arc<[Attempt]>, Credits)> {
        let stored = list_events(&self.ledger, org, 0, 1_000).await.expect("reads");
        let settle = stored.into_iter().filter_map(|stored| match stored.payload.event {
            Event::ReservationSettled { purpose, attempts, charged, .. } => {
                Some((purpose, attempts, charged))
            }
            _ => None,
        });
        settle.collect()
    }
}

#[tokio::test]
async fn each_user_keeps_to_an_arm_and_the_settle_says_which() {
    let arms = vec![arm("control", 40, &[]), arm("mini", 40, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::EndUser, arms)).await;
    let mut met = BTreeMap::new();

    for round in 0..2 {
        for user in 0..20 {
            let response = world.ask(&format!("user {user}")).await;
            assert_eq!(response.status(), 200);
            let sat = (header(&response, "x-tollgate-experiment"), header(&response, "x-tollgate-model"));
            let first = met.entry(user).or_insert_with(|| sat.clone());
            assert_eq!(*first, sat, "user {user} in round {round}");
        }
    }
    let nobody = world.post("/v1/chat/completions", chat("chat")).await;

    let of = |arm: &str| met.values().filter(|(named, _)| named == arm).count();
    assert!(of("small/control") > 2 && of("small/mini") > 2 && of("") > 0, "{met:?}");
    for (arm, model) in met.values() {
        assert_eq!(model, if arm == "small/mini" { "gpt-4o-mini" } else { "gpt-4o" });
    }
    assert_eq!(header(&nobody, "x-tollgate-experiment"), "", "nobody is told apart from nobody");
    let settles = world.settles(ACME).await;
    assert_eq!(settles.len(), 41);
    for (purpose, ..) in &settles {
        assert_eq!(purpose.arm.is_some(), purpose.unit.is_some());
        assert!(purpose.unit.as_ref().is_none_or(|unit| unit.len() == 16), "{purpose:?}");
        assert_eq!(purpose.route.as_deref(), Some("chat"));
    }
    let counted = settles.iter().filter(|(purpose, ..)| purpose.arm.as_deref() == Some("small/mini"));
    assert_eq!(counted.count(), 2 * of("small/mini"));
}

#[tokio::test]
async fn a_conversation_keeps_to_its_arm_as_it_grows() {
    let arms = vec![arm("control", 50, &[]), arm("mini", 50, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::Conversation, arms)).await;
    let mut arms = std::collections::BTreeSet::new();

    for n in 0..8 {
        let first = json!({"role": "user", "content": format!("Question {n}")});
        let opening = json!({"model": "chat", "messages": [first]});
        let later = json!({"model": "chat", "messages": [first,
            {"role": "assistant", "content": "An answer."}, {"role": "user", "content": "And then?"}]});
        let opened = world.post("/v1/chat/completions", opening).await;
        let went_on = world.post("/v1/chat/completions", later).await;

        let arm = header(&opened, "x-tollgate-experiment");
        assert_eq!(arm, header(&went_on, "x-tollgate-experiment"));
        arms.insert(arm);
    }

    assert_eq!(arms.len(), 2, "{arms:?}");
}

#[tokio::test]
async fn a_key_or_a_conversation_of_a_name_keeps_to_its_arm_whatever_it_says() {
    let arms = || vec![arm("control", 50, &[]), arm("mini", 50, &["openai/gpt-4o-mini"])];
    for sticky_by in [StickyBy::Key, StickyBy::Conversation] {
        let world = World::tried("", on_chat(sticky_by, arms())).await;
        let mut met = std::collections::BTreeSet::new();
        for n in 0..8 {
            let key = KeyId { org: ACME, local: Uuid::from_u128(100 + n) };
            let key = create_key(&world.ledger, key, None).await;
            let (secret, name) = match sticky_by {
                StickyBy::Key => (&key, 0),
                _ => (&world.secret, n),
            };
            let arm = async |said: &str| {
                let body = json!({"model": "chat", "messages": [{"role": "user", "content": said}]});
                let call = world.call_by(secret, "/v1/chat/completions", &body);
                let call = call.header("x-tollgate-conversation", format!("conversation {name}"));
                header(&call.send().await.expect("answers"), "x-tollgate-experiment")
            };

            let arms = [arm("One").await, arm("Two").await, arm("Three").await];

            assert!(arms.iter().all(|arm| *arm == arms[0]), "{sticky_by:?} {n}: {arms:?}");
            met.extend(arms);
        }
        assert_eq!(met.len(), 2, "{sticky_by:?}: {met:?}");
    }
}

#[tokio::test]
async fn a_conversation_keeps_to_its_arm_where_its_client_moves_the_marks_of_the_cache() {
    let arms = vec![arm("control", 50, &[]), arm("mini", 50, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::Conversation, arms)).await;
    let part = |text: &str, is_marked: bool| match is_marked {
        true => json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]),
        false => json!([{"type": "text", "text": text}]),
    };
    for n in 0..8 {
        let question = format!("Question {n}");
        let turn = |first: Value, is_marked: bool, more: &[Value]| {
            let messages = [&[json!({"role": "user", "content": first})], more].concat();
            json!({"model": "chat", "max_tokens": 20, "system": part("Be brief.", is_marked), "messages": messages})
        };
        let more = [
            json!({"role": "assistant", "content": "An answer."}),
            json!({"role": "user", "content": part("And then?", true)}),
        ];
        let mut met = std::collections::BTreeSet::new();
        for body in [
            turn(part(&question, true), true, &[]),
            turn(part(&question, false), false, &more),
            turn(question.as_str().into(), true, &more),
        ] {
            let response = world.post("/v1/messages", body).await;
            assert_eq!(response.status(), 200);
            met.insert(header(&response, "x-tollgate-experiment"));
        }
        assert_eq!(met.len(), 1, "conversation {n}: {met:?}");
    }
}

#[tokio::test]
async fn conversations_of_one_prompt_are_drawn_apart_and_each_keeps_to_its_arm() {
    let arms = vec![arm("control", 50, &[]), arm("mini", 50, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::Conversation, arms)).await;
    let prompts = json!([{"id": "reply", "version": 1, "system": "It is {{time}}.",
                          "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]}]);
    let prompts = serde_json::from_value(prompts).expect("prompts");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    for (path, said) in
        [("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/v1/messages", "messages")]
    {
        let arm = async |time: &str, turns: &[&Value]| {
            let prompt = json!({"id": "reply", "variables": {"time": time}});
            let mut body = json!({"model": "chat", "prompt": prompt, said: turns});
            if path == "/v1/messages" {
                body["max_tokens"] = 20.into();
            }
            let response = world.post(path, body).await;
            assert_eq!(response.status(), 200, "{path}");
            header(&response, "x-tollgate-experiment")
        };
        let mut met = std::collections::BTreeSet::new();
        for n in 0..8 {
            let first = json!({"role": "user", "content": format!("Question {n}")});
            let [answer, more] = [("assistant", "An answer."), ("user", "And then?")]
                .map(|(role, text)| json!({"role": role, "content": text}));

            let opened = arm("noon", &[&first]).await;
            let went_on = arm("later", &[&first, &answer, &more]).await;

            assert_eq!(opened, went_on, "{path} {n}");
            met.insert(opened);
        }
        assert_eq!(met.len(), 2, "{path}: {met:?}");
        let alone = [arm("dawn", &[]).await, arm("dawn", &[]).await];
        assert_eq!(alone[0], alone[1], "{path}");
    }
}

#[tokio::test]
async fn i1_an_arm_never_costs_more_than_it_was_allotted_and_its_org_goes_on_without_it() {
    let arms = vec![arm("mini", 100, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::Org, arms)).await;
    // One hold and a little more: the first charges leave no room for another.
    let allotted: Credits = "0.0099".parse().expect("credits");
    world.command(ACME, OrgCommand::AllotArm { arm: "small/mini".into(), credits: Some(allotted) }).await;

    for _ in 0..6 {
        let (a, b, c) = tokio::join!(world.ask("ada"), world.ask("bob"), world.ask("eve"));
        for response in [a, b, c] {
            assert_eq!(response.status(), 200);
            let sat = !header(&response, "x-tollgate-experiment").is_empty();
            assert_eq!(header(&response, "x-tollgate-model"), if sat { "gpt-4o-mini" } else { "gpt-4o" });
            let clamped = header(&response, "x-tollgate-clamp").parse::<u32>();
            assert!(!sat || clamped == Ok(16_384), "an arm's last credits shorten no answer: {clamped:?}");
        }
    }

    let settles = world.settles(ACME).await;
    let (inside, outside): (Vec<_>, Vec<_>) = settles.iter().partition(|(purpose, ..)| purpose.arm.is_some());
    assert!(!inside.is_empty() && !outside.is_empty(), "{} and {}", inside.len(), outside.len());
    let cost: Credits = inside.iter().map(|(_, _, charged)| *charged).sum();
    assert!(cost <= allotted, "{cost}");
}

/// All callers in an arm that has no credits of its own to spend.
async fn spent(route: Value) -> World {
    let arms = vec![arm("mini", 100, &["openai/gpt-4o-mini"])];
    let world = World::tried_on(route, "", on_chat(StickyBy::Org, arms)).await;
    world.allot("0.000000001").await;
    world
}

fn served(response: &reqwest::Response) -> [String; 3] {
    ["cache", "experiment", "model"].map(|name| header(response, &format!("x-tollgate-{name}")))
}

#[tokio::test]
async fn where_an_arm_is_spent_its_answers_are_neither_given_nor_kept() {
    for price in ["0", "0.0001"] {
        let kept = json!({"ttl_seconds": 300, "deterministic_only": false, "price": price});
        let world = spent(json!({"name": "chat", "chain": ["openai/gpt-4o"], "cache": kept})).await;
        let ask = async |words: &str| {
            let body = json!({"model": "chat", "messages": [{"role": "user", "content": words}]});
            let response = world.post("/v1/chat/completions", body).await;
            assert_eq!(response.status(), 200);
            served(&response)
        };

        let outside = ask("one").await;
        world.allot("1").await;
        let inside = [ask("one").await, ask("one").await];
        world.allot("0.000000001").await;
        let outside_again = ask("one").await;

        assert_eq!(outside, ["miss", "", "gpt-4o"]);
        assert_eq!(
            inside[0],
            ["miss", "small/mini", "gpt-4o-mini"],
            "what others were told is not the arm's"
        );
        assert_eq!(inside[1], ["hit", "small/mini", "gpt-4o-mini"]);
        assert_eq!(outside_again, ["hit", "", "gpt-4o"], "at {price} a hit");
    }
}

#[tokio::test]
async fn where_an_arm_is_spent_the_request_is_trimmed_for_whom_it_goes_to() {
    for (own, trimmed) in [("openai/gpt-4o", "1 messages"), ("spare/gpt-4.1-nano", "")] {
        let world =
            spent(json!({"name": "chat", "chain": [own], "context_fit": "trim_oldest", "retries": 0})).await;
        let words = |tokens: usize| "alpha beta ".repeat(tokens / 2);
        let body = json!({"model": "chat", "max_tokens": 20, "messages": [
            {"role": "user", "content": words(100_000)}, {"role": "user", "content": words(60_000)}]});

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(header(&response, "x-tollgate-trimmed"), trimmed, "{own}");
        assert_eq!(header(&response, "x-tollgate-experiment"), "");
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].usage.input_total() < 100_000, !trimmed.is_empty(), "{own}: {attempts:?}");
    }
}

#[tokio::test]
async fn a_shadow_gets_its_copy_pays_by_itself_and_stands_in_nobodys_way() {
    let shadow = Arm { shadow_paid_by: Some(LAB), ..arm("haiku", 100, &["anthropic/claude-haiku-4-5"]) };
    let world = World::tried("", on_chat(StickyBy::Org, vec![arm("control", 100, &[]), shadow])).await;
    world.open_lab("1").await;

    let whole = world.ask("ada").await;
    let mut streamed = chat("chat");
    streamed["stream"] = true.into();
    let stream = world.post("/v1/chat/completions", streamed).await;
    assert_eq!((whole.status().as_u16(), stream.status().as_u16()), (200, 200));
    assert!(stream.text().await.expect("text").ends_with("data: [DONE]\n\n"));
    world.state.finish().await;

    let (own, shadowed) = (world.settles(ACME).await, world.settles(LAB).await);
    assert_eq!((own.len(), shadowed.len()), (2, 2));
    for ((purpose, attempts, charged), (of_caller, ..)) in shadowed.iter().zip(&own) {
        assert_eq!(purpose.arm.as_deref(), Some("small/haiku"));
        assert_eq!(attempts[0].provider, "anthropic");
        assert!(charged.is_positive());
        assert_eq!((purpose.key, &purpose.end_user), (None, &None), "the caller is nobody's business");
        assert_eq!(of_caller.arm.as_deref(), Some("small/control"));
    }
    let lab = world.ledger.read(LAB, |account| account.balance()).await.expect("reads");
    assert_eq!(lab.held, Credits::ZERO);
    let sold: Vec<_> = world.simulator.sold().rows;
    assert_eq!(sold.len(), 4);
}

#[tokio::test]
async fn a_shadow_whose_payer_is_broke_is_left_out_and_the_caller_served() {
    let shadow = Arm { shadow_paid_by: Some(LAB), ..arm("haiku", 100, &["anthropic/claude-haiku-4-5"]) };
    let world = World::tried("", on_chat(StickyBy::Org, vec![arm("control", 100, &[]), shadow])).await;
    world.open_lab("0.000001").await;

    let response = world.ask("ada").await;
    world.state.finish().await;

    assert_eq!(response.status(), 200);
    assert!(world.settles(LAB).await.is_empty());
    assert_eq!(world.simulator.sold().rows.len(), 1);
}

#[tokio::test]
async fn a_shadow_gets_what_was_asked_and_not_what_was_left_of_it_for_the_arm_that_answers() {
    let shadow = Arm { shadow_paid_by: Some(LAB), ..arm("nano", 100, &["spare/gpt-4.1-nano"]) };
    let route = json!({"name": "chat", "chain": ["openai/gpt-4o"], "context_fit": "trim_oldest"});
    let experiment = on_chat(StickyBy::Org, vec![arm("control", 100, &[]), shadow]);
    let world = World::tried_on(route, "", experiment).await;
    world.open_lab("5").await;
    let words = |tokens: usize| "alpha beta ".repeat(tokens / 2);
    let body = json!({"model": "chat", "max_tokens": 20, "messages": [
        {"role": "user", "content": words(100_000)}, {"role": "user", "content": words(60_000)}]});

    let response = world.post("/v1/chat/completions", body).await;
    world.state.finish().await;

    assert_eq!(header(&response, "x-tollgate-trimmed"), "1 messages");
    let input = async |org| world.settles(org).await[0].1[0].usage.input_total();
    assert!(input(ACME).await < 100_000 && input(LAB).await > 128_000);
}

#[tokio::test]
async fn a_shadow_for_whose_copy_there_is_no_room_is_left_out_and_the_caller_served() {
    let shadow = Arm { shadow_paid_by: Some(LAB), ..arm("haiku", 100, &["anthropic/claude-haiku-4-5"]) };
    let mut world = World::tried("", on_chat(StickyBy::Org, vec![arm("control", 100, &[]), shadow])).await;
    world.open_lab("5").await;
    world.config.body_memory_mebibytes = 1;
    world.restart().await;
    // Of a long one, two copies would leave less than each of them has.
    for letters in [400_000, 4] {
        let mut body = chat("chat");
        body["messages"][0]["content"] = "a".repeat(letters).into();
        assert_eq!(world.post("/v1/chat/completions", body).await.status(), 200);
    }
    world.state.finish().await;

    assert_eq!((world.settles(ACME).await.len(), world.settles(LAB).await.len()), (2, 1));
}

#[tokio::test]
async fn an_arm_that_nobody_answers_counts_its_failure() {
    let arms = vec![arm("stormy", 100, &["openai/gpt-4o-mini"])];
    let world = World::tried("503=1", on_chat(StickyBy::Org, arms)).await;

    let response = world.ask("ada").await;

    assert_eq!(response.status(), 503);
    let settles = world.settles(ACME).await;
    let [(purpose, attempts, charged)] = &settles[..] else { panic!("{settles:?}") };
    assert_eq!((purpose.arm.as_deref(), *charged), (Some("small/stormy"), Credits::ZERO));
    assert!(attempts.iter().all(|attempt| attempt.outcome == AttemptOutcome::Refused));
    assert_eq!(world.balance().await.held, Credits::ZERO);
}

#[tokio::test]
async fn what_an_arm_can_not_carry_goes_on_without_the_experiment() {
    let arms = vec![arm("haiku", 100, &["anthropic/claude-haiku-4-5"])];
    let world = World::tried("", on_chat(StickyBy::Org, arms)).await;
    let mut two = chat("chat");
    two["n"] = 2.into();
    let long = vec![arm("short", 100, &["openai/gpt-4o-mini"])];
    let route = json!({"name": "chat", "chain": ["openai/gpt-4.1-nano"], "context_fit": "refuse"});
    let narrow = World::tried_on(route, "", on_chat(StickyBy::Org, long)).await;
    let words = "alpha beta ".repeat(80_000);
    let long = json!({"model": "chat", "max_tokens": 20, "messages": [{"role": "user", "content": words}]});
    let mut nonsense = chat("chat");
    nonsense["service_tier"] = "ludicrous".into();

    let carried = world.post("/v1/chat/completions", chat("chat")).await;
    let two = world.post("/v1/chat/completions", two).await;
    let long = narrow.post("/v1/chat/completions", long).await;
    let nonsense = narrow.post("/v1/chat/completions", nonsense).await;

    assert_eq!(served(&carried)[1..], ["small/haiku", "claude-haiku-4-5"]);
    assert_eq!((two.status().as_u16(), served(&two)), (200, ["", "", "gpt-4o"].map(String::from)));
    assert_eq!((long.status().as_u16(), served(&long)), (200, ["", "", "gpt-4.1-nano"].map(String::from)));
    assert_eq!(nonsense.status(), 422, "where the route can't carry it either, its own reason is told");
}

#[tokio::test]
async fn a_fallback_that_the_cap_refuses_is_no_failure_of_the_arm() {
    let arms = vec![arm("mini", 100, &["openai/gpt-4o-mini", "spare/gpt-4o"])];
    let world = World::tried("503=1", on_chat(StickyBy::Org, arms)).await;
    // Enough for the first target's hold, and not for the second's.
    world.allot("0.02").await;
    let mut body = chat("chat");
    body["max_tokens"] = 16_384.into();

    let response = world.post("/v1/chat/completions", body.clone()).await;
    let capped = world.settles(ACME).await.len();
    world.allot("1").await;
    let served = world.post("/v1/chat/completions", body).await;

    assert_eq!((response.status().as_u16(), served.status().as_u16()), (503, 200));
    assert_eq!(capped, 0, "it is in no arm's sample");
    assert_eq!(header(&served, "x-tollgate-experiment"), "small/mini");
    assert_eq!(world.balance().await.held, Credits::ZERO);
}

#[tokio::test]
async fn an_arm_without_a_price_is_left_out_and_a_winner_answers_everybody() {
    let arms = vec![arm("unknown", 50, &["openai/no-such-model"]), arm("mini", 50, &["openai/gpt-4o-mini"])];
    let world = World::tried("", on_chat(StickyBy::Conversation, arms)).await;
    for n in 0..8 {
        let body = json!({"model": "chat", "messages": [{"role": "user", "content": format!("{n}")}]});
        let response = world.post("/v1/chat/completions", body).await;
        let sat = (header(&response, "x-tollgate-experiment"), header(&response, "x-tollgate-model"));
        let (mini, own) = (("small/mini", "gpt-4o-mini"), ("", "gpt-4o"));
        assert!([mini, own].contains(&(sat.0.as_str(), sat.1.as_str())), "{sat:?}");
    }

    let promote = SystemCommand::PromoteArm { name: "small".into(), arm: "mini".into() };
    world.ledger.submit_system(promote, None, None).await.expect("promotes");
    let won = world.ask("anybody").await;
    let stop = SystemCommand::StopExperiment { name: "small".into() };
    world.ledger.submit_system(stop, None, None).await.expect("stops");
    let over = world.ask("anybody").await;

    let said = |response| (header(response, "x-tollgate-experiment"), header(response, "x-tollgate-model"));
    assert_eq!(said(&won), ("small/mini".into(), "gpt-4o-mini".into()));
    assert_eq!(said(&over), (String::new(), "gpt-4o".into()));
    let (purpose, ..) = world.settles(ACME).await.remove(8);
    assert_eq!(
        (purpose.arm.as_deref(), purpose.unit),
        (Some("small/mini"), None),
        "in reports, in no sample"
    );
}

#[tokio::test]
async fn a_requests_id_finds_its_reservation() {
    let arms = vec![arm("control", 100, &[])];
    let world = World::tried("", on_chat(StickyBy::Org, arms)).await;
    let response = world.ask("ada").await;
    let id: RequestId = header(&response, "x-request-id").parse().expect("an id");

    let reservation = ReservationId { org: ACME, local: id.0 };
    let ended: Option<Ended> = world
        .ledger
        .read(ACME, move |account| account.ended.get(&reservation).cloned())
        .await
        .expect("reads");

    assert!(ended.is_some_and(|ended| ended.is_settled()));
}
