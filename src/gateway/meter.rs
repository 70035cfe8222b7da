//! The meter: what one attempt consumed and costs, by the best report there is.
//!
//! The ladder: the provider's final usage, its last cumulative usage, what was counted from the delivered output, the
//! hold's bound. Delivered tokens are never free; what was given up and may have made more than it showed is at the bound, and so
//! is what broke off after its provider ran tools; a count that can't be true is never charged as told.

use serde_json::Value;

use crate::domain::attempt::AttemptOutcome;
use crate::domain::credits::Credits;
use crate::domain::pricing::{Costs, PriceError, PricedBy, RateCard, costs, searches_unasked};
use crate::domain::usage::{
    Usage, UsageAnomaly, UsageSource, anthropic_other_models, from_anthropic, from_gemini, from_openai_chat,
    from_openai_embeddings, from_openai_responses, with_long_cache_writes,
};
use crate::gateway::dialects::{self, Delivered, Family, StreamRelay, embeddings};
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::model_names::{
    is_claude_thinking_unasked, is_grok_thinking_unseen, is_openai_reasoning_model,
    is_openai_reasoning_unasked,
};
use crate::gateway::plan::Prices;
use crate::gateway::providers;
use crate::gateway::quote::Quote;
use crate::gateway::token_estimate::{BYTES_PER_TOKEN, input_tokens};

/// What an answer says of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub usage: Option<Value>,
    pub served_model: Option<String>,
    pub service_tier: Option<String>,
    pub is_whole: bool,
    pub delivered: Delivered,
}

/// What one attempt is charged, and why.
#[derive(Clone, Debug)]
pub struct Metered {
    pub model: String,
    pub usage: Usage,
    pub source: UsageSource,
    pub cost: Credits,
    /// At list price.
    pub provider_cost: Credits,
    pub service_tier: Option<String>,
    pub priced_by: Option<PricedBy>,
    /// Other models that the provider called within this call, each with its usage.
    pub others: Vec<Metered>,
    /// Why the report can't be trusted; the hold's bound is then charged.
    pub quarantine: Option<String>,
}

impl Report {
    pub fn of_answer(family: Family, body: &Value) -> Report {
        let output = ["choices", "output", "content", "candidates"].map(|field| &body[field]);
        let text_bytes = output.into_iter().map(text_bytes).sum();
        Report {
            usage: providers::usage_json(family, body).cloned(),
            served_model: providers::served_model(body).map(str::to_owned),
            service_tier: providers::served_tier(body).map(str::to_owned),
            is_whole: true,
            delivered: Delivered { text_bytes, ..Delivered::default() },
        }
    }

    pub fn of_stream(relay: &StreamRelay) -> Report {
        Report {
            usage: relay.usage_json().cloned(),
            served_model: relay.served_model().map(str::to_owned),
            service_tier: relay.service_tier().map(str::to_owned),
            is_whole: relay.is_whole(),
            delivered: relay.delivered(),
        }
    }
}

/// Meters an attempt that answered, in whole or in part. How often its provider searched, and how much it read of what it
/// found, is told at the end alone: without one nobody knows.
pub fn meter(request: &Request, quote: &Quote, prices: &Prices, report: &Report) -> Metered {
    if report.delivered.has_run_tools && !report.is_whole {
        return at_most(quote);
    }
    let reader = Reader { request, quote, prices };
    match reader.read(report) {
        Ok(metered) => metered,
        Err(why) => Metered { quarantine: Some(why), ..at_most(quote) },
    }
}

/// Meters an attempt beside the one that answers. Where it failed, a count that can't be true is no reason to charge all
/// that is held: it is then as one of which nobody knows.
pub fn meter_beside(
    request: &Request,
    quote: &Quote,
    prices: &Prices,
    report: Option<&Report>,
    outcome: AttemptOutcome,
) -> Metered {
    let metered = match (report, outcome) {
        // It had begun, was read for as long as another one's answer took, and may have thought all that time.
        (Some(report), AttemptOutcome::Cancelled)
            if !has_told_output(quote, report) && thinks_unseen(quote, report) =>
        {
            at_most(quote)
        }
        (Some(report), _) => meter(request, quote, prices, report),
        (None, AttemptOutcome::Refused) => refused(quote),
        (None, _) => unknown(quote),
    };
    match (&metered.quarantine, outcome) {
        (None, _) | (Some(_), AttemptOutcome::Succeeded) => metered,
        (Some(why), _) => {
            let provider = &quote.target.upstream.config.name;
            tracing::warn!(provider, why, "a failed attempt's usage can't be true; its input is charged");
            unknown(quote)
        }
    }
}

/// Whether a stream that we gave up may have produced more than was received: by a model that thinks unseen, or before its
/// first part.
pub fn may_have_made_more(quote: &Quote, report: &Report) -> bool {
    let is_silent = report.delivered.deltas == 0;
    !has_told_output(quote, report) && (is_silent || thinks_unseen(quote, report))
}

/// Whether a stream that goes on has told what it has made. Gemini's streams count as they go; OpenAI's tell their usage at the
/// end, and Claude's tell that of the output there.
fn has_told_output(quote: &Quote, report: &Report) -> bool {
    match quote.target.upstream.family {
        Family::OpenaiChat | Family::OpenaiResponses | Family::Gemini => report.usage.is_some(),
        Family::Anthropic => false,
    }
}

/// Whether it may have thought what was neither delivered nor told.
fn thinks_unseen(quote: &Quote, report: &Report) -> bool {
    // A deployment has whatever name its account gave it.
    let models = [quote.target.model.as_str(), report.served_model.as_deref().unwrap_or_default()];
    let sent = || serde_json::from_slice::<Value>(&quote.body).unwrap_or_default();
    match quote.target.upstream.family {
        Family::OpenaiChat | Family::OpenaiResponses => {
            let sent = sent();
            let effort = sent["reasoning_effort"].as_str().or(sent["reasoning"]["effort"].as_str());
            let is_openais = match effort {
                Some("none") => return false,
                Some(_) => is_openai_reasoning_model,
                None => is_openai_reasoning_unasked,
            };
            let thinks = |model| is_openais(model) || is_grok_thinking_unseen(model);
            hides_thoughts(&sent) || models.into_iter().any(thinks)
        }
        Family::Anthropic => {
            let sent = sent();
            match sent["thinking"]["type"].as_str() {
                Some(kind) => kind != "disabled",
                None => models.into_iter().any(is_claude_thinking_unasked),
            }
        }
        Family::Gemini => true,
    }
}

/// Whether thoughts are made and not sent, as OpenRouter, Groq and Cerebras are asked to:
/// <https://openrouter.ai/docs/use-cases/reasoning-tokens>, <https://console.groq.com/docs/reasoning>.
fn hides_thoughts(sent: &Value) -> bool {
    sent["reasoning"]["exclude"] == true
        || sent["include_reasoning"] == false
        || sent["reasoning_format"] == "hidden"
}

/// An attempt that we gave up, and that may have made all that it was allowed to.
pub fn at_most(quote: &Quote) -> Metered {
    at_bound(quote, quote.credits)
}

/// An attempt of which nobody knows what the provider did: its input was sent.
fn unknown(quote: &Quote) -> Metered {
    at_bound(quote, quote.input_credits)
}

/// An attempt that the provider refused before it did anything that costs.
fn refused(quote: &Quote) -> Metered {
    Metered { source: UsageSource::Final, ..at_bound(quote, Credits::ZERO) }
}

fn at_bound(quote: &Quote, credits: Credits) -> Metered {
    Metered {
        model: quote.target.model.clone(),
        usage: Usage::default(),
        source: UsageSource::Bound,
        cost: credits,
        provider_cost: credits,
        service_tier: None,
        priced_by: None,
        others: Vec::new(),
        quarantine: None,
    }
}

struct Reader<'a> {
    request: &'a Request,
    quote: &'a Quote,
    prices: &'a Prices,
}

impl Reader<'_> {
    fn read(&self, report: &Report) -> Result<Metered, String> {
        let told = match report.usage.as_ref().map(|told| self.told(told)) {
            Some(Ok(told)) => Some(told),
            // What is not told was not counted by the provider: that alone is no reason to charge all that is held.
            None | Some(Err(UsageAnomaly::Missing { .. })) => None,
            Some(Err(anomaly)) => return Err(anomaly.to_string()),
        };
        let (usage, source, others) = match told {
            None if report.is_whole && self.may_think() && thinks_unseen(self.quote, report) => {
                return Err(
                    "no usage was told of an answer that may have been thought about unseen".to_owned()
                );
            }
            None => (self.counted(report), UsageSource::Counted, Vec::new()),
            Some((usage, others)) => {
                let (usage, source) = self.completed(report, usage);
                (usage, source, others)
            }
        };
        let price =
            |model: &str, usage| self.price(model, report, usage, source).map_err(|error| error.to_string());
        let own = price(report.served_model.as_deref().unwrap_or(&self.quote.target.model), usage)?;
        let others = others.into_iter().map(|(model, usage)| price(providers::bounded_name(&model), usage));
        let others = others.collect::<Result<_, _>>()?;
        Ok(Metered { others, ..own })
    }

    fn may_think(&self) -> bool {
        match self.request.endpoint {
            Endpoint::Generate(_) => true,
            Endpoint::Embed => false,
        }
    }

    /// The model's own usage, and that of others which the provider called.
    fn told(&self, told: &Value) -> Result<(Usage, Vec<(String, Usage)>), UsageAnomaly> {
        let own = match (self.request.endpoint, self.quote.target.upstream.family) {
            (Endpoint::Embed | Endpoint::Generate(_), Family::Gemini) => from_gemini(told)?,
            (Endpoint::Embed, Family::OpenaiChat | Family::OpenaiResponses | Family::Anthropic) => {
                from_openai_embeddings(told)?
            }
            (Endpoint::Generate(_), Family::OpenaiChat) => from_openai_chat(told)?,
            (Endpoint::Generate(_), Family::OpenaiResponses) if self.quote.long_cache_writes => {
                with_long_cache_writes(told, from_openai_responses(told)?)
            }
            (Endpoint::Generate(_), Family::OpenaiResponses) => from_openai_responses(told)?,
            (Endpoint::Generate(_), Family::Anthropic) => {
                return Ok((from_anthropic(told)?, anthropic_other_models(told)?));
            }
        };
        Ok((own, Vec::new()))
    }

    fn completed(&self, report: &Report, usage: Usage) -> (Usage, UsageSource) {
        if report.is_whole {
            return (usage, UsageSource::Final);
        }
        // The count at a stream's start knows the input, not what came after it.
        let counted = self.counted(report).output_tokens;
        let missing = counted.saturating_sub(usage.output_total());
        if missing > 0 {
            let output_tokens = usage.output_tokens.saturating_add(missing);
            return (Usage { output_tokens, ..usage }, UsageSource::Counted);
        }
        (usage, UsageSource::Cumulative)
    }

    fn counted(&self, report: &Report) -> Usage {
        let delivered = report.delivered;
        let output = delivered.deltas.max(delivered.text_bytes.div_ceil(BYTES_PER_TOKEN));
        let input = match self.request.endpoint {
            // What is no text stands in the request in base64 as it is sent, and is found in the caller's dialect alone.
            Endpoint::Generate(_) => input_tokens(&self.request.body, self.quote.body.len()),
            Endpoint::Embed => embeddings::counted_tokens(&self.request.body),
        };
        Usage {
            input_tokens: input.min(self.quote.input_tokens_max),
            output_tokens: output.min(self.quote.output_tokens_max),
            ..Usage::default()
        }
    }

    /// Priced at the card of the model and tier that answered where they are named and a card exists, else at those
    /// requested; which of the two cards counts where the one is a dated name of the other, the price book says.
    fn price(
        &self,
        model: &str,
        report: &Report,
        usage: Usage,
        source: UsageSource,
    ) -> Result<Metered, PriceError> {
        let target = &self.quote.target;
        let card = self.prices.served_card(self.request.caller.org, target, model).unwrap_or(&target.card);
        let usage =
            Usage { web_searches: usage.web_searches.max(self.searches_unasked(model, card)), ..usage };
        let terms = self.quote.terms.clone().served_in(card, report.service_tier.as_deref());
        let Costs { cost, list_cost } = costs(card, &terms, &usage)?;
        Ok(Metered {
            model: model.to_owned(),
            cost,
            provider_cost: list_cost,
            priced_by: Some(terms.priced_by(card, self.prices.at)),
            usage,
            source,
            service_tier: report.service_tier.clone(),
            others: Vec::new(),
            quarantine: None,
        })
    }

    /// How many searches no usage reports, of a model that searches before each answer.
    fn searches_unasked(&self, model: &str, card: &RateCard) -> u64 {
        let answers = match self.request.endpoint {
            Endpoint::Generate(client) => dialects::wanted_choices(client, &self.request.body),
            Endpoint::Embed => 0,
        };
        // Some providers name the model behind the one that was asked.
        let models = [model, self.quote.target.model.as_str()];
        let searches = models.into_iter().filter_map(|model| searches_unasked(model, card)).max();
        searches.unwrap_or(0).saturating_mul(answers)
    }
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
