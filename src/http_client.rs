//! Where HTTP clients begin, whatever they are for.

/// A builder of clients whose TLS works: reqwest is built without a TLS provider of its own.
pub fn builder() -> reqwest::ClientBuilder {
    // Fails where this process has installed it before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
