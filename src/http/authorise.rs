//! Who may do what: the role of a key, its org, and its project.

use crate::domain::account::refusal::Refusal;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::role::Role;
use crate::http::{ApiState, Problem};
use crate::ledger::LedgerError;
use crate::operations::authenticate::Actor;
use crate::operations::find_org::resolve_org;
use crate::operations::show_reservation::show_reservation;

/// The roles that may look at what an org has and asks for.
pub const READERS: &[Role] = &[Role::Finance, Role::OrgAdmin, Role::Gateway];
/// The roles that may look at its events, its spend and all of its keys.
pub const AUDITORS: &[Role] = &[Role::Finance, Role::OrgAdmin];

/// The org named in the path, where the actor may act on it in one of these roles. Another org's is not found.
pub async fn org_for(api: &ApiState, actor: &Actor, named: &str, roles: &[Role]) -> Result<OrgId, Problem> {
    let org = resolve_org(&api.ledger, named).await?.ok_or(Refusal::UnknownOrg)?;
    require_role(actor, org, roles)?;
    Ok(org)
}

/// Whether the actor may act on an org in one of these roles.
fn require_role(actor: &Actor, org: OrgId, roles: &[Role]) -> Result<(), Problem> {
    if actor.org.is_some_and(|own| own != org) {
        return Err(Refusal::UnknownOrg.into());
    }
    if actor.role == Role::Operator || roles.contains(&actor.role) {
        Ok(())
    } else {
        Err(Problem::forbidden(roles))
    }
}

/// Whether the actor is the operator.
pub fn require_operator(actor: &Actor) -> Result<(), Problem> {
    if actor.role == Role::Operator { Ok(()) } else { Err(Problem::forbidden(&[])) }
}

/// Whether the actor may read every org.
pub fn require_all_orgs_reader(actor: &Actor) -> Result<(), Problem> {
    let reads = actor.org.is_none() && matches!(actor.role, Role::Operator | Role::Finance);
    if reads { Ok(()) } else { Err(Problem::forbidden(&[Role::Finance])) }
}

/// The reservation that a path or an operation names, where the actor may act on it: a project's key on its project's.
pub async fn authorised(
    api: &ApiState,
    actor: &Actor,
    reservation: &str,
    roles: &[Role],
) -> Result<ReservationId, Problem> {
    let id: ReservationId = reservation.parse().map_err(|_| Refusal::UnknownReservation)?;
    // Another org's is as one that is not there.
    if actor.org.is_some_and(|own| own != id.org) {
        return Err(Refusal::UnknownReservation.into());
    }
    require_role(actor, id.org, roles)?;
    of_its_project(api, actor, id).await?;
    Ok(id)
}

/// A project's key knows of no other project's reservation.
pub async fn of_its_project(api: &ApiState, actor: &Actor, id: ReservationId) -> Result<(), LedgerError> {
    match actor.project {
        Some(own) if show_reservation(&api.ledger, id).await?.project != Some(own) => {
            Err(Refusal::UnknownReservation.into())
        }
        Some(_) | None => Ok(()),
    }
}
