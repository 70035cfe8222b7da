//! An org's life, its projects and its keys.

use super::Decision;
use super::guards::{exists, known_project, may_change, not_negative, require, within_account_max};
use crate::domain::account::command::{KEYS_EVER_MAX, KEYS_MAX, PROJECTS_MAX};
use crate::domain::account::due::expire_lot;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, OrgStatus};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{KeyId, ProjectId};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;

/// A key to be made.
pub(super) struct NewKey {
    pub key: KeyId,
    pub role: Role,
    pub project: Option<ProjectId>,
    pub secret_sha256: String,
    pub expires_at: Option<Timestamp>,
}

pub(super) fn open_org(
    account: &Account,
    slug: String,
    time_zone: String,
    overdraft_limit: Credits,
) -> Decision {
    require(account.status == OrgStatus::Unknown, || Refusal::OrgExists)?;
    require(time_zone.parse::<chrono_tz::Tz>().is_ok(), || Refusal::UnknownTimeZone(time_zone.clone()))?;
    not_negative(overdraft_limit)?;
    Ok(vec![Event::OrgOpened { slug, time_zone, overdraft_limit }])
}

pub(super) fn close_org(account: &Account, now: Timestamp) -> Decision {
    exists(account)?;
    if account.status == OrgStatus::Closed {
        return Ok(vec![]);
    }
    let open = account.holds.len();
    require(open == 0, || Refusal::OpenReservations { open })?;
    let mut events: Vec<Event> = account.live_lots().map(expire_lot).collect();
    // Of those that have expired there may be a hundred times as many.
    events.extend(account.live_keys(now).map(|(key, _)| Event::KeyRevoked { key: *key }));
    events.push(Event::OrgClosed {});
    Ok(events)
}

pub(super) fn suspend(account: &Account, reason: String) -> Decision {
    may_change(account)?;
    let is_suspended = matches!(account.status, OrgStatus::Suspended { .. });
    Ok(if is_suspended { vec![] } else { vec![Event::OrgSuspended { reason }] })
}

pub(super) fn resume(account: &Account) -> Decision {
    may_change(account)?;
    let is_suspended = matches!(account.status, OrgStatus::Suspended { .. });
    Ok(if is_suspended { vec![Event::OrgResumed {}] } else { vec![] })
}

pub(super) fn set_overdraft_limit(account: &Account, overdraft_limit: Credits) -> Decision {
    may_change(account)?;
    not_negative(overdraft_limit)?;
    within_account_max(account.totals.granted, overdraft_limit)?;
    Ok(vec![Event::OverdraftLimitSet { overdraft_limit }])
}

pub(super) fn create_project(account: &Account, project: ProjectId, name: String) -> Decision {
    may_change(account)?;
    require(!account.projects.values().any(|taken| *taken == name), || Refusal::ProjectExists)?;
    let limit = PROJECTS_MAX;
    require(account.projects.len() < limit, || Refusal::TooManyProjects { limit })?;
    Ok(vec![Event::ProjectCreated { project, name }])
}

/// Guards: org, project, known id, expiry, live keys, all keys.
pub(super) fn create_key(account: &Account, new: NewKey, now: Timestamp) -> Decision {
    let NewKey { key, role, project, secret_sha256, expires_at } = new;
    may_change(account)?;
    known_project(account, project)?;
    require(!account.keys.contains_key(&key), || Refusal::KeyExists)?;
    require(expires_at.is_none_or(|at| at > now), || Refusal::ExpiryInPast)?;
    let (live, ever) = (account.live_keys(now).count(), account.keys.len());
    require(live < KEYS_MAX, || Refusal::TooManyKeys { limit: KEYS_MAX })?;
    require(ever < KEYS_EVER_MAX, || Refusal::TooManyKeys { limit: KEYS_EVER_MAX })?;
    Ok(vec![Event::KeyCreated { key, role, project, secret_sha256, expires_at }])
}

pub(super) fn revoke_key(account: &Account, key: KeyId) -> Decision {
    let known = account.keys.get(&key).ok_or(Refusal::UnknownKey)?;
    Ok(if known.revoked { vec![] } else { vec![Event::KeyRevoked { key }] })
}
