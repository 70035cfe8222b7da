//! The orgs of a load's own: opened before it, with credits and a key each, and closed whichever way it ends.

use serde_json::{Value, json};

use crate::load::LoadError;
use crate::load::stop::Stop;
use crate::load::traffic::{Client, Org};

/// What an org of a load is given: more than the longest run can spend on pairs, and plenty at the gateway.
const CREDITS_GRANTED: &str = "1000000";
const NOT_FOUND: u16 = 404;

#[derive(Debug)]
pub struct OwnOrgs {
    client: Client,
    operator_key: String,
    /// Each from before the server is asked for it: one whose answer was lost is closed as well.
    orgs: Vec<Org>,
}

impl OwnOrgs {
    pub fn new(client: Client, operator_key: String) -> OwnOrgs {
        OwnOrgs { client, operator_key, orgs: Vec::new() }
    }

    /// Opens `count` of them, with keys of a role.
    ///
    /// # Errors
    /// `Unreachable`, or `Refused` with what the server said.
    pub async fn open(&mut self, count: u16, run: &str, role: &str) -> Result<Vec<Org>, LoadError> {
        for number in 0..count {
            let slug = format!("load-{run}-{number}");
            self.orgs.push(Org { slug: slug.clone(), key: String::new() });
            let opened = self.ask("/api/v1/orgs", &slug, json!({"slug": slug, "name": "A load test"})).await;
            if let Err(error) = opened {
                if error.changed_nothing() {
                    self.orgs.pop();
                }
                return Err(error);
            }
            let grant = json!({"credits": CREDITS_GRANTED, "kind": "promotional", "note": "load test"});
            self.ask(&format!("/api/v1/orgs/{slug}/grants"), &slug, grant).await?;
            let key = json!({"name": "load test", "role": role});
            let made = self.ask(&format!("/api/v1/orgs/{slug}/keys"), &slug, key).await?;
            if let Some(org) = self.orgs.last_mut() {
                made["secret"].as_str().unwrap_or_default().clone_into(&mut org.key);
            }
        }
        Ok(self.orgs.clone())
    }

    /// Closes all of them, or as many as there is time for until the next request to stop; those that stay open,
    /// and why.
    pub async fn close(&self, mut stop: Stop) -> Vec<(String, LoadError)> {
        let enough = stop.times() + 1;
        let mut open = Vec::new();
        for Org { slug, .. } in &self.orgs {
            let path = format!("/api/v1/orgs/{slug}/close");
            let closed = tokio::select! {
                biased;
                () = stop.signalled(enough) => Err(LoadError::Stopped),
                closed = self.ask(&path, slug, json!({})) => closed,
            };
            match closed {
                Ok(_) | Err(LoadError::Refused { status: NOT_FOUND, .. }) => {}
                Err(why) => open.push((slug.clone(), why)),
            }
        }
        open
    }

    async fn ask(&self, path: &str, slug: &str, body: Value) -> Result<Value, LoadError> {
        self.client.ask(path, &self.operator_key, &format!("{slug}{path}"), body).await
    }
}
