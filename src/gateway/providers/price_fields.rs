//! What of a request changes its price, in the terms of a rate card.

/// The processing tier asked for. `auto` and silence count as standard: the operator's account decides what they
/// mean, and must not buy a dearer tier by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceTier {
    #[default]
    Standard,
    Flex,
    Priority,
}

/// How much a search puts into the context; OpenAI prices each size apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SearchContext {
    Low,
    #[default]
    Medium,
    High,
}

/// A provider's own web search, at most this often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSearch {
    pub max_uses: u64,
    pub context: SearchContext,
}

/// What of a request changes its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceFields {
    pub service_tier: ServiceTier,
    /// Anthropic's `speed: fast`.
    pub fast: bool,
    /// The region of inference where it is priced apart, `us`.
    pub region: Option<&'static str>,
    /// Choices that are generated; each may be as long as the clamp.
    pub n: u64,
    pub uses_cache_write_5m: bool,
    pub uses_cache_write_1h: bool,
    pub web_search: Option<WebSearch>,
    pub image_input: bool,
    pub audio_input: bool,
    pub audio_output: bool,
    /// Where the bytes of the request bound nothing (documents, pages that the provider fetches): the input is at
    /// most this many context windows.
    pub context_windows: Option<u64>,
}

impl Default for PriceFields {
    fn default() -> Self {
        Self {
            service_tier: ServiceTier::Standard,
            fast: false,
            region: None,
            n: 1,
            uses_cache_write_5m: false,
            uses_cache_write_1h: false,
            web_search: None,
            image_input: false,
            audio_input: false,
            audio_output: false,
            context_windows: None,
        }
    }
}

impl PriceFields {
    /// Notes that the input may fill at least this many context windows.
    pub(super) fn needs_context_windows(&mut self, windows: u64) {
        self.context_windows = Some(self.context_windows.unwrap_or(0).max(windows));
    }
}
