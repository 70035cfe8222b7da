//! What the API says of itself: `/openapi.json`, and `/docs`, one page without any outside request.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;
use utoipa::IntoResponses;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder, SecurityRequirement};

use crate::http::problem::{BodyProblems, ProblemBody};

const STYLE: &str = include_str!("docs.css");

/// Both pages, made once.
#[derive(Clone, Debug)]
pub struct Served(Arc<Pages>);

#[derive(Debug)]
struct Pages {
    json: String,
    html: String,
}

pub fn about() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key of one of the roles that the route names."))
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Tollgate")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Prepaid AI credits that are never overspent. Amounts are decimal strings of credits, times are \
                     RFC 3339. Send an `Idempotency-Key` with every POST that changes money: a repeat gets the first \
                     answer and changes nothing.",
                ))
                .build(),
        )
        .components(Some(ComponentsBuilder::new().schema_from::<ProblemBody>().security_scheme("key", SecurityScheme::Http(bearer)).build()))
        .security(Some([SecurityRequirement::new("key", Vec::<String>::new())]))
        .build()
}

/// Every body passes the same door.
pub fn say_what_bodies_may_be(openapi: &mut OpenApi) {
    for item in openapi.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten().filter(|one| one.request_body.is_some()) {
            operation.responses.responses.extend(BodyProblems::responses());
        }
    }
}

impl Served {
    pub fn new(openapi: &OpenApi) -> Served {
        let json = openapi.to_pretty_json().unwrap_or_default();
        let html = render(&serde_json::from_str(&json).unwrap_or_default());
        Served(Arc::new(Pages { json, html }))
    }
}

pub async fn openapi_json(State(served): State<Served>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], served.0.json.clone()).into_response()
}

pub async fn page(State(served): State<Served>) -> Html<String> {
    Html(served.0.html.clone())
}

/// The whole page: an index by tag, then each route with its parameters, body, answers and a curl line.
fn render(openapi: &Value) -> String {
    let mut index = String::new();
    let mut routes = String::new();
    for (tag, operations) in by_tag(openapi) {
        let _ = write!(index, "<li><a href=\"#tag-{tag}\">{tag}</a><ul>");
        let _ = write!(routes, "<h2 id=\"tag-{tag}\">{tag}</h2>");
        for operation in operations {
            let (anchor, method, path) = (operation.anchor(), operation.method, escape(operation.path));
            let _ = write!(index, "<li><a href=\"#{anchor}\"><b>{method}</b> {path}</a></li>");
            operation.render(openapi, &mut routes);
        }
        index.push_str("</ul></li>");
    }
    let about = escape(openapi["info"]["description"].as_str().unwrap_or_default());
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Tollgate API</title><style>{STYLE}</style></head><body>\
         <nav aria-label=\"Routes\"><h1>Tollgate API</h1><ul>{index}</ul></nav>\
         <main><p>{about}</p><p>The same as <a href=\"/openapi.json\">openapi.json</a>.</p>{routes}</main>\
         </body></html>"
    )
}

struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    described: &'a Value,
}

/// Operations by their first tag, in the order of the document.
fn by_tag(openapi: &Value) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut tags: Vec<(&str, Vec<Operation<'_>>)> = Vec::new();
    let paths = openapi["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for (method, described) in methods.as_object().into_iter().flatten() {
            let tag = described["tags"][0].as_str().unwrap_or("other");
            let operation = Operation { method, path, described };
            match tags.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, operations)) => operations.push(operation),
                None => tags.push((tag, vec![operation])),
            }
        }
    }
    tags
}

impl Operation<'_> {
    fn anchor(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        format!("{}-{}", self.method, words.collect::<Vec<_>>().join("-"))
    }

    fn render(&self, openapi: &Value, page: &mut String) {
        let described = self.described;
        let (method, path) = (self.method, escape(self.path));
        let _ = write!(
            page,
            "<section id=\"{}\"><h3><b class=\"{method}\">{method}</b> {path}</h3>",
            self.anchor()
        );
        for text in ["summary", "description"].map(|name| described[name].as_str().unwrap_or_default()) {
            if !text.is_empty() {
                let _ = write!(page, "<p>{}</p>", escape(text));
            }
        }
        let _ = write!(page, "<p>{}</p>", self.who());
        let parameters = described["parameters"].as_array().into_iter().flatten();
        let rows: Vec<String> = parameters.map(parameter_row).collect();
        if !rows.is_empty() {
            let _ = write!(page, "<table><caption>Parameters</caption>{}</table>", rows.concat());
        }
        let body = &described["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            let _ = write!(page, "<h4>Body</h4>{}", fields(openapi, body));
        }
        page.push_str("<h4>Answers</h4><table>");
        for (status, answer) in described["responses"].as_object().into_iter().flatten() {
            let content = answer["content"].as_object().into_iter().flatten().next();
            let schema = content.map_or(&Value::Null, |(_, content)| &content["schema"]);
            let about = answer["description"].as_str().unwrap_or_default();
            let shown = if status.starts_with('2') { fields(openapi, schema) } else { String::new() };
            let headers = answer["headers"].as_object().into_iter().flatten().map(header_row);
            let headers: String = if status.starts_with('2') { headers.collect() } else { String::new() };
            let _ = write!(
                page,
                "<tr><th scope=\"row\">{status}</th><td>{}{shown}</td></tr>{headers}",
                escape(about)
            );
        }
        let _ = write!(page, "</table><pre>{}</pre></section>", escape(&self.curl()));
    }

    /// The roles whose keys may use it; none where it needs no key.
    fn roles(&self) -> Vec<&str> {
        let schemes = self.described["security"].as_array().into_iter().flatten();
        let roles = schemes.flat_map(|scheme| scheme["key"].as_array().into_iter().flatten());
        roles.filter_map(Value::as_str).collect()
    }

    fn who(&self) -> String {
        match self.roles().as_slice() {
            [] => "Needs no key.".to_owned(),
            roles => format!("With a key of role {}.", roles.join(", ")),
        }
    }

    fn curl(&self) -> String {
        let mut line = format!("curl -X {} \"$TOLLGATE{}\"", self.method.to_uppercase(), self.path);
        if !self.roles().is_empty() {
            line.push_str(" \\\n  -H \"Authorization: Bearer $KEY\"");
        }
        let mut parameters = self.described["parameters"].as_array().into_iter().flatten();
        if parameters.any(|parameter| parameter["name"] == "Idempotency-Key") {
            line.push_str(" \\\n  -H \"Idempotency-Key: $(uuidgen)\"");
        }
        let example = &self.described["requestBody"]["content"]["application/json"]["example"];
        if !example.is_null() {
            line.push_str(&format!(" \\\n  --json '{example}'"));
        }
        line
    }
}

fn parameter_row(parameter: &Value) -> String {
    let text = |name: &str| escape(parameter[name].as_str().unwrap_or_default());
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
        text("name"),
        text("in"),
        text("description")
    )
}

fn header_row((name, header): (&String, &Value)) -> String {
    let about = escape(header["description"].as_str().unwrap_or_default());
    format!("<tr><th scope=\"row\">{}</th><td>{about}</td></tr>", escape(name))
}

/// The fields of a schema, those of its parts included.
fn fields(openapi: &Value, schema: &Value) -> String {
    let mut rows = String::new();
    field_rows(openapi, schema, "", &mut rows);
    if rows.is_empty() { String::new() } else { format!("<table class=\"fields\">{rows}</table>") }
}

fn field_rows(openapi: &Value, schema: &Value, prefix: &str, rows: &mut String) {
    // Deeper ones are better read in the schema.
    if prefix.matches('.').count() > 2 {
        return;
    }
    let schema = resolve(openapi, schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        field_rows(openapi, part, prefix, rows);
    }
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let about = field["description"].as_str().or_else(|| resolve(openapi, field)["description"].as_str());
        let need = if required(name) { "" } else { " (optional)" };
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{prefix}{}</th><td>{}{need}</td><td>{}</td></tr>",
            escape(name),
            kind(openapi, field),
            escape(about.unwrap_or_default())
        );
        let inner = format!("{prefix}{}.", escape(name));
        let resolved = resolve(openapi, field);
        let parts = field["oneOf"].as_array().into_iter().flatten();
        for part in parts.chain([resolved, &resolved["items"]]) {
            field_rows(openapi, part, &inner, rows);
        }
    }
}

/// A field's type in a word or two.
fn kind(openapi: &Value, field: &Value) -> String {
    if let Some(one_of) = field["oneOf"].as_array() {
        let kinds: Vec<String> = one_of.iter().map(|one| kind(openapi, one)).collect();
        return kinds.join(" | ");
    }
    let resolved = resolve(openapi, field);
    match &resolved["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(openapi, &resolved["items"])),
        Value::String(name) => match resolved["enum"].as_array() {
            Some(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
            None => name.clone(),
        },
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => "object".to_owned(),
    }
}

fn resolve<'a>(openapi: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        Some(pointer) => openapi.pointer(pointer).unwrap_or(&Value::Null),
        None => schema,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
