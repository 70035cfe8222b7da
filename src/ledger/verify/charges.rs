//! What a settle charges, against usage at the prices of its price book's version (I9).

use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::OrgId;
use crate::domain::pricing::book::PriceBook;

/// What does not add up of an event, in words.
pub(super) fn breach(prices: &PriceBook, org: OrgId, event: &Event) -> Option<String> {
    let Event::ReservationSettled { attempts, price_book_version, cost, charged, excess, .. } = event else {
        return None;
    };
    let version = *price_book_version;
    for attempt in attempts.iter() {
        let Some(by) = &attempt.priced_by else { continue };
        let priced = prices.price_again(version, org, by, &attempt.usage);
        match priced.map(|priced| priced.rounded) {
            Some(cost) if cost == attempt.cost => {}
            Some(cost) => {
                let (model, found) = (&attempt.model, attempt.cost);
                return Some(format!("usage of {model} costs {found}, and {cost} at prices {version}"));
            }
            None => {
                let (provider, model) = (&by.provider, &by.model);
                return Some(format!("prices {version} have none for {provider}/{model} and this usage"));
            }
        }
    }
    // Where some usage has no price, a hold's bound is charged instead.
    let sum: Credits = attempts.iter().map(|attempt| attempt.cost).sum();
    if !attempts.is_empty() && attempts.iter().all(|attempt| attempt.priced_by.is_some()) && sum != *cost {
        return Some(format!("its cost is {cost}, that of its calls {sum}"));
    }
    let is_whole = charged.saturating_add(*excess) == *cost;
    (!is_whole).then(|| format!("{charged} is charged and {excess} is not, of {cost}"))
}
