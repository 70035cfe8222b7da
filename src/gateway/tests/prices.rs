//! Prices of a model whose provider answers under a dated name.

use super::*;
use crate::domain::ids::ReservationId;
use crate::ledger::verify::verify;
use crate::operations::explain::explain;

/// Publishes another price of `gpt-4o-mini`, whose dated name keeps the one that it has.
async fn reprice(world: &World, org: Option<OrgId>, input: &str, output: &str) {
    let mut card = default_cards(Timestamp(1)).expect("cards");
    card.retain(|card| card.provider == "openai" && card.model == "gpt-4o-mini");
    card[0].org = org;
    (card[0].rates.input, card[0].rates.output) = (Some(rate(input)), Some(rate(output)));
    let publish = SystemCommand::PublishPrices { cards: card, mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
}

fn rate(text: &str) -> crate::domain::pricing::Rate {
    text.parse().expect("a rate")
}

/// The last reservation, and what was held for it.
async fn last_hold(world: &World) -> (ReservationId, Credits) {
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let hold = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
        Event::CreditsReserved { reservation, credits, .. } => Some((reservation, credits)),
        _ => None,
    });
    hold.expect("a hold")
}

#[tokio::test]
async fn a_new_price_of_a_model_counts_where_the_provider_names_it_by_its_date_i9() {
    let dated = "gpt-4o-mini-2024-07-18";
    let world = World::new("5", "").await;
    // In and out, in credits per million tokens and in nanocredits per token.
    for (org, rates, nanos, priced_as) in [
        (None, None, (150, 600), dated),
        (None, Some(("0.3", "1.2")), (300, 1_200), "gpt-4o-mini"),
        (Some(ACME), Some(("0.1", "0.2")), (100, 200), "gpt-4o-mini"),
    ] {
        if let Some((input, output)) = rates {
            reprice(&world, org, input, output).await;
        }

        let response = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;

        assert_eq!(response.status(), 200);
        let (attempts, _) = world.last_settle().await;
        let [attempt] = &*attempts else { panic!("{attempts:?}") };
        let (input, output) = (attempt.usage.input_tokens, attempt.usage.output_tokens);
        let cost = input * nanos.0 + output * nanos.1;
        assert_eq!(attempt.cost, Credits::from_nanos(cost.try_into().expect("little")), "{org:?} {rates:?}");
        assert_eq!(attempt.model, dated);
        assert_eq!(attempt.priced_by.as_ref().map(|by| by.model.as_str()), Some(priced_as));
        let (reservation, held) = last_hold(&world).await;
        assert!(held >= attempt.cost, "{held} is held");
        let explanation = explain(&world.ledger, reservation).await.expect("explains");
        assert_eq!(explanation.attempts[0].agrees(), Some(true));
    }
    assert!(verify(&*world.log).await.expect("reads").is_sound());
}

#[tokio::test]
async fn another_model_that_answers_has_its_own_price_whatever_the_asked_one_s_is() {
    let answer = async || {
        let mut answer = completion(json!({"prompt_tokens": 1_000, "completion_tokens": 1_000}));
        answer["model"] = "gpt-4.1-nano-2025-04-14".into();
        axum::Json(answer)
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"]}]);
    let world = World::with_odd("5", "", routes, odd).await;
    reprice(&world, Some(ACME), "10", "10").await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(header(&response, "x-tollgate-cost"), "0.0005");
}
