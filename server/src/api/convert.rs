//! Between SPIRE's messages and our nouns, with SPIRE's rules and texts (spire-map 1.2, 1.7).

use std::collections::BTreeSet;

use hardroot_api::spire::api::types;
use hardroot_identity::{BadSpiffeId, Selector, SpiffeId, TrustDomain, check_dns_names};

use crate::datastore::{Entry, EntryMask, Match, Node};

/// Longest hint, in bytes.
const MAX_HINT: usize = 1024;

/// Why a message does not say what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("request must specify SPIFFE ID")]
    NoId,
    #[error("{}", go_text(.0))]
    Id(BadSpiffeId),
    #[error("\"{id}\" is not a member of trust domain \"{trust_domain}\"")]
    NotMember { id: SpiffeId, trust_domain: TrustDomain },
    #[error("\"{id}\" is not {what} trust domain \"{trust_domain}\"; {why}")]
    WrongPath { id: SpiffeId, trust_domain: TrustDomain, what: &'static str, why: &'static str },
    #[error("{0}")]
    Rule(&'static str),
    #[error("{what}: {cause}")]
    Field { what: &'static str, cause: Box<BadMessage> },
    #[error("{0}")]
    DnsName(hardroot_identity::BadDnsName),
}

fn field(what: &'static str) -> impl Fn(BadMessage) -> BadMessage {
    move |cause| BadMessage::Field { what, cause: Box::new(cause) }
}

/// The texts of go-spiffe, which clients and their tests know.
pub(crate) fn go_text(fault: &BadSpiffeId) -> String {
    match fault {
        BadSpiffeId::Empty => "cannot be empty".to_owned(),
        BadSpiffeId::Scheme => "scheme is missing or invalid".to_owned(),
        BadSpiffeId::NoTrustDomain => "trust domain is missing".to_owned(),
        BadSpiffeId::TrustDomainByte { .. } => "trust domain characters are limited to lowercase letters, \
             numbers, dots, dashes, and underscores"
            .to_owned(),
        BadSpiffeId::PathByte { .. } => {
            "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
                .to_owned()
        }
        BadSpiffeId::EmptySegment => "path cannot contain empty segments or have a trailing slash".to_owned(),
        BadSpiffeId::DotSegment => "path cannot contain dot segments".to_owned(),
        BadSpiffeId::NoLeadingSlash => "path must have a leading slash".to_owned(),
        other => other.to_string(),
    }
}

/// A SPIFFE ID as a message.
pub(crate) fn spiffe_id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, BadMessage> {
    TrustDomain::from_name_or_id(text).map_err(BadMessage::Id)
}

/// An ID of our trust domain, with a path.
pub(super) fn member(own: &TrustDomain, id: Option<&types::Spiffeid>) -> Result<SpiffeId, BadMessage> {
    let id = parsed(own, id)?;
    if id.path().is_empty() {
        return Err(wrong(own, id, "a member of", "path is empty"));
    }
    Ok(id)
}

/// An ID of our trust domain.
fn parsed(own: &TrustDomain, id: Option<&types::Spiffeid>) -> Result<SpiffeId, BadMessage> {
    let id = id.ok_or(BadMessage::NoId)?;
    let id = SpiffeId::new(&trust_domain(&id.trust_domain)?, &id.path).map_err(BadMessage::Id)?;
    ours(own, id)
}

fn ours(own: &TrustDomain, id: SpiffeId) -> Result<SpiffeId, BadMessage> {
    if id.is_member_of(own) { Ok(id) } else { Err(BadMessage::NotMember { id, trust_domain: own.clone() }) }
}

/// An ID of our trust domain below `/spire/agent/`.
pub(super) fn agent(own: &TrustDomain, id: Option<&types::Spiffeid>) -> Result<SpiffeId, BadMessage> {
    let id = parsed(own, id)?;
    if id.path().is_empty() {
        return Err(wrong(own, id, "an agent in", "path is empty"));
    }
    if !id.path().starts_with("/spire/agent/") {
        return Err(wrong(own, id, "an agent in", "path is not in the agent namespace"));
    }
    Ok(id)
}

/// An ID of our trust domain that is not reserved.
pub(super) fn workload(own: &TrustDomain, id: Option<&types::Spiffeid>) -> Result<SpiffeId, BadMessage> {
    check_workload(own, parsed(own, id)?)
}

/// As [`workload`], of an ID that did not come as a message.
pub(super) fn check_workload(own: &TrustDomain, id: SpiffeId) -> Result<SpiffeId, BadMessage> {
    let id = ours(own, id)?;
    if id.path().is_empty() {
        return Err(wrong(own, id, "a workload in", "path is empty"));
    }
    if id.is_reserved() {
        return Err(wrong(own, id, "a workload in", "path is in the reserved namespace"));
    }
    Ok(id)
}

fn wrong(own: &TrustDomain, id: SpiffeId, what: &'static str, why: &'static str) -> BadMessage {
    BadMessage::WrongPath { id, trust_domain: own.clone(), what, why }
}

pub(super) fn selectors(messages: &[types::Selector]) -> Result<Vec<Selector>, BadMessage> {
    messages
        .iter()
        .map(|selector| {
            Selector::new(selector.r#type.as_str(), selector.value.as_str()).map_err(|fault| {
                BadMessage::Rule(match fault {
                    hardroot_identity::BadSelector::NoValue => "missing selector value",
                    hardroot_identity::BadSelector::ColonInType => "selector type contains ':'",
                    _ => "missing selector type",
                })
            })
        })
        .collect()
}

pub(super) fn selector_messages(selectors: &[Selector]) -> Vec<types::Selector> {
    selectors
        .iter()
        .map(|selector| types::Selector {
            r#type: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

/// `type:value`.
pub(super) fn selector_text(selector: &types::Selector) -> String {
    format!("{}:{}", selector.r#type, selector.value)
}

/// The name of a `MatchBehavior`, as SPIRE's log has it.
pub(super) fn match_text(number: i32) -> String {
    match number {
        0 => "MATCH_EXACT".to_owned(),
        1 => "MATCH_SUBSET".to_owned(),
        2 => "MATCH_SUPERSET".to_owned(),
        3 => "MATCH_ANY".to_owned(),
        other => other.to_string(),
    }
}

/// `SelectorMatch.MatchBehavior` and `FederatesWithMatch.MatchBehavior`, whose numbers are the same.
pub(super) fn match_behaviour(number: i32) -> Result<Match, BadMessage> {
    match number {
        0 => Ok(Match::Exact),
        1 => Ok(Match::Subset),
        2 => Ok(Match::Superset),
        3 => Ok(Match::Any),
        _ => Err(BadMessage::Rule("unknown match behavior")),
    }
}

pub(super) fn selector_filter(wanted: &types::SelectorMatch) -> Result<(Vec<Selector>, Match), BadMessage> {
    let selectors = selectors(&wanted.selectors)?;
    if selectors.is_empty() {
        return Err(BadMessage::Rule("empty selector set"));
    }
    Ok((selectors, match_behaviour(wanted.r#match)?))
}

pub(super) fn federation_filter(
    wanted: &types::FederatesWithMatch,
) -> Result<(Vec<TrustDomain>, Match), BadMessage> {
    let domains =
        wanted.trust_domains.iter().map(|name| trust_domain(name)).collect::<Result<Vec<_>, _>>()?;
    if domains.is_empty() {
        return Err(BadMessage::Rule("empty trust domain set"));
    }
    Ok((domains, match_behaviour(wanted.r#match)?))
}

/// The fields of `mask`, or all; the revision, id and time of creation are always shown as the message asks.
pub(super) fn entry_mask(mask: Option<&types::EntryMask>) -> EntryMask {
    let Some(mask) = mask else { return EntryMask::ALL };
    EntryMask {
        spiffe_id: mask.spiffe_id,
        parent_id: mask.parent_id,
        selectors: mask.selectors,
        x509_svid_ttl: mask.x509_svid_ttl,
        jwt_svid_ttl: mask.jwt_svid_ttl,
        federates_with: mask.federates_with,
        admin: mask.admin,
        downstream: mask.downstream,
        expires_at: mask.expires_at,
        dns_names: mask.dns_names,
        store_svid: mask.store_svid,
        hint: mask.hint,
        additional_attributes: mask.additional_attributes,
    }
}

/// An entry as a message, with the fields of `mask` (all without one).
pub(crate) fn entry_message(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let attributes = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    let has_attributes = entry.disable_x509_svid_prefetch || entry.jwt_svid_include_jti;
    let message = types::Entry {
        id: entry.id.clone(),
        spiffe_id: Some(spiffe_id(&entry.spiffe_id)),
        parent_id: Some(spiffe_id(&entry.parent_id)),
        selectors: selector_messages(&entry.selectors),
        x509_svid_ttl: entry.x509_svid_ttl,
        federates_with: entry.federates_with.iter().map(ToString::to_string).collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at,
        dns_names: entry.dns_names.clone(),
        revision_number: entry.revision_number,
        store_svid: entry.store_svid,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        hint: entry.hint.clone(),
        created_at: entry.created_at,
        additional_attributes: has_attributes.then_some(attributes),
    };
    masked_entry(message, mask)
}

/// Leaves the fields of `mask` in a message, and its id.
pub(super) fn masked_entry(message: types::Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let Some(show) = mask else { return message };
    let number = |shown: bool, number: i64| if shown { number } else { 0 };
    let seconds = |shown: bool, seconds: i32| if shown { seconds } else { 0 };
    let list = |shown: bool, list: Vec<String>| if shown { list } else { Vec::new() };
    types::Entry {
        id: message.id,
        spiffe_id: message.spiffe_id.filter(|_| show.spiffe_id),
        parent_id: message.parent_id.filter(|_| show.parent_id),
        selectors: if show.selectors { message.selectors } else { Vec::new() },
        x509_svid_ttl: seconds(show.x509_svid_ttl, message.x509_svid_ttl),
        federates_with: list(show.federates_with, message.federates_with),
        admin: show.admin && message.admin,
        downstream: show.downstream && message.downstream,
        expires_at: number(show.expires_at, message.expires_at),
        dns_names: list(show.dns_names, message.dns_names),
        revision_number: number(show.revision_number, message.revision_number),
        store_svid: show.store_svid && message.store_svid,
        jwt_svid_ttl: seconds(show.jwt_svid_ttl, message.jwt_svid_ttl),
        hint: if show.hint { message.hint } else { String::new() },
        created_at: number(show.created_at, message.created_at),
        additional_attributes: message.additional_attributes.filter(|_| show.additional_attributes),
    }
}

/// Reads an entry. Fields outside `mask` are not looked at: they get harmless values that an update with the
/// same mask never writes.
pub(super) fn entry(
    own: &TrustDomain,
    message: &types::Entry,
    mask: &EntryMask,
    created_at: i64,
) -> Result<Entry, BadMessage> {
    let unused = || SpiffeId::new(own, "/unused").map_err(BadMessage::Id);
    let parent_id = if mask.parent_id {
        member(own, message.parent_id.as_ref()).map_err(field("invalid parent ID"))?
    } else {
        unused()?
    };
    let identity = if mask.spiffe_id {
        workload(own, message.spiffe_id.as_ref()).map_err(field("invalid spiffe ID"))?
    } else {
        unused()?
    };
    let dns_names = if mask.dns_names { message.dns_names.clone() } else { Vec::new() };
    check_dns_names(&dns_names).map_err(|fault| field("invalid DNS name")(BadMessage::DnsName(fault)))?;
    if dns_names.iter().collect::<BTreeSet<_>>().len() < dns_names.len() {
        return Err(BadMessage::Rule("a DNS name is given twice"));
    }
    let federates_with = if mask.federates_with {
        let read = |name: &String| trust_domain(name).map_err(field("invalid federated trust domain"));
        message.federates_with.iter().map(read).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    let selectors = if mask.selectors {
        if message.selectors.is_empty() {
            return Err(BadMessage::Rule("selector list is empty"));
        }
        selectors(&message.selectors)?
    } else {
        Vec::new()
    };
    if mask.hint && message.hint.len() > MAX_HINT {
        return Err(BadMessage::Rule("hint is too long, max length is 1024 characters"));
    }
    let attributes = message.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id: message.id.clone(),
        spiffe_id: identity,
        parent_id,
        selectors,
        x509_svid_ttl: message.x509_svid_ttl,
        jwt_svid_ttl: message.jwt_svid_ttl,
        federates_with,
        admin: message.admin,
        downstream: message.downstream,
        expires_at: message.expires_at,
        dns_names,
        revision_number: 0,
        store_svid: message.store_svid,
        hint: message.hint.clone(),
        created_at,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

/// An agent as a message, with the fields of `mask` (all without one).
pub(super) fn agent_message(node: &Node, mask: Option<&types::AgentMask>) -> types::Agent {
    let all = types::AgentMask {
        attestation_type: true,
        x509svid_serial_number: true,
        x509svid_expires_at: true,
        selectors: true,
        banned: true,
        can_reattest: true,
        agent_version: true,
    };
    let show = mask.unwrap_or(&all);
    let text = |shown: bool, text: &str| if shown { text.to_owned() } else { String::new() };
    types::Agent {
        id: Some(spiffe_id(&node.id)),
        attestation_type: text(show.attestation_type, &node.attestation_type),
        x509svid_serial_number: text(show.x509svid_serial_number, &node.serial_number),
        x509svid_expires_at: if show.x509svid_expires_at { unix(node.expires_at) } else { 0 },
        selectors: if show.selectors { selector_messages(&node.selectors) } else { Vec::new() },
        banned: show.banned && node.is_banned(),
        can_reattest: show.can_reattest && node.can_reattest,
        agent_version: text(show.agent_version, &node.agent_version),
    }
}

/// Whole seconds since 1970; times before that count as 0.
pub(super) fn unix(time: std::time::SystemTime) -> i64 {
    time.duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// A count as the messages hold it.
pub(super) fn count(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A page as the messages ask for it: no paging unless the size is positive.
pub(super) fn page(size: i32, token: &str) -> crate::datastore::Page {
    match u32::try_from(size) {
        Ok(size) if size > 0 => crate::datastore::Page { size, token: token.to_owned() },
        _ => crate::datastore::Page::default(),
    }
}
