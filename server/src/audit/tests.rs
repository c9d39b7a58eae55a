use std::sync::Arc;

use hardroot_runtime::logs::{self, LogFormat, LogLevel, LogOutput};

use super::*;

fn recorded(act: impl FnOnce(&Audit, &Record)) -> Vec<Value> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let output = LogOutput::Buffer(Arc::clone(&lines));
    // The level of the log does not matter to the audit log.
    let (_, log) = logs::subscriber(LogFormat::Json, LogLevel::Error, output).unwrap();
    act(&Audit::new(log, true), &Record::new("/spire.api.server.agent.v1.Agent/BanAgent"));
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn facts_cannot_pose_as_the_lines_own_fields() {
    let lines = recorded(|audit, record| {
        record.add("status", "success");
        record.add("spiffe_id", "spiffe://a/1");
        record.add("spiffe_id", "spiffe://a/2");
        audit.refused(record, &Status::not_found("agent not found"));
    });
    assert_eq!(lines[0]["spiffe_id"], "spiffe://a/2", "the last one counts");
    assert_eq!(
        (&lines[0]["status_code"], &lines[0]["status_message"]),
        (&5.into(), &"agent not found".into())
    );
    assert_eq!((&lines[0]["level"], &lines[0]["msg"]), (&"info".into(), &"API accessed".into()));
}

#[test]
fn what_peers_send_is_cut() {
    let lines = recorded(|audit, record| {
        let mut details = Details::default();
        details.add("hint", "é".repeat(600));
        details.add_list("selectors", std::iter::repeat_n("unix:uid:1000", 100_000));
        details.add_list("dns_name", ["a", "b"]);
        details.add_list("federates_with", [""; 0]);
        audit.item(record, details, None);
    });
    assert_eq!(lines[0]["hint"], format!("{}…", "é".repeat(512)));
    assert_eq!(lines[0]["selectors"].as_str().unwrap().chars().count(), LONGEST_LIST + 1);
    assert_eq!(lines[0]["dns_name"], "a,b");
    assert!(lines[0].get("federates_with").is_none());
}

#[test]
fn a_handler_that_writes_lines_itself_gets_no_other() {
    let lines = recorded(|audit, record| {
        record.by_handler();
        audit.done(record);
        audit.done_issuing(record).unwrap();
        audit.refused(record, &Status::internal("x"));
        audit.item(record, Details::default(), None);
    });
    assert_eq!(lines.len(), 1);
    let off = Record::new("x");
    Audit::off().issued(&off, Details::default()).unwrap();
}
