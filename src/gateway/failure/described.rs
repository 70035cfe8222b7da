//! For the API's description: what a caller of `/v1` is told where there is no answer.

use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::{Components, ComponentsBuilder};

use super::FailureCode;

/// An error as OpenAI's SDKs know it.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenaiError)]
#[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
pub struct OpenaiErrorBody {
    error: OpenaiErrorPart,
}

#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
struct OpenaiErrorPart {
    message: String,
    /// invalid_request_error, insufficient_quota, rate_limit_error or server_error.
    r#type: String,
    /// The field at fault.
    param: Option<String>,
    code: FailureCode,
}

/// An error as Anthropic's SDKs know it.
#[derive(Serialize, ToSchema)]
#[schema(as = AnthropicError)]
#[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
pub struct AnthropicErrorBody {
    /// `error`.
    r#type: String,
    error: AnthropicErrorPart,
    request_id: String,
}

#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
struct AnthropicErrorPart {
    /// Anthropic's name of the status, such as `billing_error`.
    r#type: String,
    message: String,
    code: FailureCode,
}

/// An error in the dialect that the request's headers speak.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = OpenaiOrAnthropicError)]
#[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
pub enum EitherErrorBody {
    Openai(OpenaiErrorBody),
    Anthropic(AnthropicErrorBody),
}

/// For the API's description: the errors that a request may be answered with, in the shape that the caller's SDK knows.
macro_rules! failures {
    ($name:ident, $body:ident) => {
        #[derive(utoipa::IntoResponses)]
        #[allow(dead_code, reason = "the documentation of what a `Failure` answers")]
        pub enum $name {
            /// Malformed, or refused by the provider as the caller's fault.
            #[response(status = 400)]
            Malformed($body),
            /// No key, or one that is not known or was revoked.
            #[response(status = 401)]
            Unauthorized($body),
            /// Credits or a budget do not cover it, or the limit on one request.
            #[response(status = 402)]
            PaymentRequired($body),
            /// The key's role may not do this.
            #[response(status = 403)]
            Forbidden($body),
            /// No configured provider has a price for the model, or serves it at this endpoint.
            #[response(status = 404)]
            NotFound($body),
            /// The idempotency key was used by another request, which the message names.
            #[response(status = 409)]
            Conflict($body),
            /// The body is too large, or more tokens than a minute allows.
            #[response(status = 413)]
            TooLarge($body),
            /// The body is compressed.
            #[response(status = 415)]
            Compressed($body),
            /// Understood, but it can't be priced or can't be sent to this model.
            #[response(status = 422)]
            Unprocessable($body),
            /// A limit of the org's, or the provider's where no other could serve; see Retry-After.
            #[response(status = 429)]
            TooManyRequests($body),
            /// A fault of this node's; the request id helps to find it.
            #[response(status = 500)]
            Internal($body),
            /// No provider answered as it should.
            #[response(status = 502)]
            UpstreamFailed($body),
            /// The ledger can't hold now, or no provider can answer; see Retry-After. Or the time that the request may take is over.
            #[response(status = 503)]
            Unavailable($body),
        }
    };
}

failures!(OpenaiFailures, OpenaiErrorBody);
failures!(AnthropicFailures, AnthropicErrorBody);
failures!(EitherFailures, EitherErrorBody);

/// The bodies that these answers refer to.
pub fn schemas() -> Components {
    let mut parts = Vec::new();
    EitherErrorBody::schemas(&mut parts);
    ComponentsBuilder::new().schemas_from_iter(parts).schema_from::<EitherErrorBody>().build()
}
