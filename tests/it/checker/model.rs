//! What an org's reservations may answer, naively: an org is three numbers and a list of holds.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tollgate::domain::credits::Credits;
use tollgate::domain::time::Timestamp;

#[derive(Clone, Debug, Default)]
pub struct Org {
    pub granted: Credits,
    consumed: Credits,
    pub holds: BTreeMap<String, Hold>,
}

#[derive(Clone, Debug)]
pub struct Hold {
    credits: Credits,
    expires_at: Timestamp,
    pub status: Status,
    charged: Credits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Held,
    Settled,
    Released,
    Expired,
}

/// What was asked of an org.
#[derive(Clone, Debug)]
pub enum Asked {
    /// The id is the server's.
    Reserve {
        credits: Credits,
        ttl_seconds: i64,
    },
    Settle {
        hold: String,
        cost: Credits,
    },
    Release {
        hold: String,
    },
    Extend {
        hold: String,
        ttl_seconds: i64,
    },
    Grant {
        credits: Credits,
    },
    Balance,
}

/// An answer: its status, and the members that it must have.
pub type Said = (u16, Value);

impl Org {
    fn held(&self) -> Credits {
        let open = self.holds.values().filter(|hold| hold.status == Status::Held);
        open.map(|hold| hold.credits).sum()
    }

    pub fn available(&self) -> Credits {
        self.granted.saturating_sub(self.held()).saturating_sub(self.consumed)
    }

    /// Holds end by time alone (I11).
    pub fn reach(&mut self, now: Timestamp) {
        for hold in self.holds.values_mut() {
            if hold.status == Status::Held && hold.expires_at <= now {
                hold.status = Status::Expired;
            }
        }
    }

    /// Does what was asked. `id` is that of the hold which a reserve makes.
    pub fn answer(&mut self, asked: &Asked, id: &str, now: Timestamp) -> Said {
        self.reach(now);
        match asked {
            Asked::Reserve { credits, ttl_seconds } => {
                let available = self.available();
                if *credits > available {
                    return (402, json!({ "available": available, "asked": credits }));
                }
                let expires_at = now.plus_seconds(*ttl_seconds);
                let hold =
                    Hold { credits: *credits, expires_at, status: Status::Held, charged: Credits::ZERO };
                self.holds.insert(id.to_owned(), hold);
                let said = json!({
                    "id": id, "status": "held", "held": credits, "expires_at": expires_at.to_rfc3339(),
                    "available": self.available(),
                });
                (201, said)
            }
            Asked::Settle { hold: id, cost } => {
                let hold = self.holds.get_mut(id).expect("only known holds are settled");
                if hold.status == Status::Settled {
                    return ended(hold);
                }
                let late = hold.status != Status::Held;
                let released =
                    if late { Credits::ZERO } else { hold.credits.saturating_sub(*cost).or_zero() };
                (hold.status, hold.charged) = (Status::Settled, *cost);
                self.consumed = self.consumed.saturating_add(*cost);
                let said = json!({
                    "id": id, "status": "settled", "charged": cost, "released": released, "late": late,
                    "excess": "0", "available": self.available(),
                });
                (200, said)
            }
            Asked::Release { hold: id } => {
                let hold = self.holds.get_mut(id).expect("only known holds are released");
                let released = hold.credits;
                match hold.status {
                    Status::Held | Status::Released => hold.status = Status::Released,
                    Status::Settled | Status::Expired => return ended(hold),
                }
                let said = json!({
                    "id": id, "status": "released", "charged": "0", "released": released, "late": false,
                    "available": self.available(),
                });
                (200, said)
            }
            Asked::Extend { hold: id, ttl_seconds } => {
                let hold = self.holds.get_mut(id).expect("only known holds are extended");
                if hold.status != Status::Held {
                    return ended(hold);
                }
                hold.expires_at = hold.expires_at.max(now.plus_seconds(*ttl_seconds));
                let expires_at = hold.expires_at.to_rfc3339();
                let said = json!({
                    "id": id, "status": "held", "expires_at": expires_at, "available": self.available(),
                });
                (200, said)
            }
            Asked::Grant { credits } => {
                self.granted = self.granted.saturating_add(*credits);
                (201, json!({ "granted": credits }))
            }
            Asked::Balance => {
                let said = json!({
                    "available": self.available(), "held": self.held(), "granted": self.granted,
                    "consumed": self.consumed,
                });
                (200, said)
            }
        }
    }
}

fn ended(hold: &Hold) -> Said {
    let status = match hold.status {
        Status::Held => "held",
        Status::Settled => "settled",
        Status::Released => "released",
        Status::Expired => "expired",
    };
    (409, json!({ "code": "reservation_ended", "reservation_status": status }))
}
