//! The Tpm service.

use tonic::Code;
use wire::tpm_server::Tpm as _;

use super::*;
use crate::api::testing::{NOW, Site};

async fn enrol(service: &TpmService, hash: &str, path: &str) -> Result<wire::Enrolment, Status> {
    let request = wire::EnrolRequest { ek_hash: hash.into(), note: "rack 4".into(), agent_path: path.into() };
    service.enrol(Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn enrolments_come_and_go() {
    let site = Site::new().await;
    let service = site.tpm_service();
    let (a, b) = ("ab".repeat(32), "cd".repeat(32));
    let made = enrol(&service, &a.to_uppercase(), "/spire/agent/gateways/g1").await.unwrap();
    assert_eq!(made.ek_hash, a, "in lower case, as attestation computes it");
    assert_eq!(made.agent_path, "/gateways/g1", "below /spire/agent, as attestation joins it");
    assert_eq!(made.created_at, i64::try_from(NOW).unwrap());
    assert_eq!(enrol(&service, &b, "").await.unwrap().agent_path, "");
    let all = service.list_enrolments(Request::new(wire::ListEnrolmentsRequest {})).await.unwrap();
    assert_eq!(all.into_inner().enrolments.len(), 2);
    let get = |hash: &str| Request::new(wire::GetEnrolmentRequest { ek_hash: hash.to_owned() });
    assert_eq!(service.get_enrolment(get(&a)).await.unwrap().into_inner(), made);
    let remove = |hash: &str| Request::new(wire::RemoveEnrolmentRequest { ek_hash: hash.to_owned() });
    service.remove_enrolment(remove(&a)).await.unwrap();
    for error in [
        service.get_enrolment(get(&a)).await.unwrap_err(),
        service.remove_enrolment(remove(&a)).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.message()), (Code::NotFound, "TPM enrolment not found"));
    }
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let site = Site::new().await;
    let service = site.tpm_service();
    let (a, b) = ("ab".repeat(32), "cd".repeat(32));
    enrol(&service, &a, "/spire/agent/g1").await.unwrap();
    assert_eq!(enrol(&service, &a, "").await.unwrap_err().code(), Code::AlreadyExists);
    let taken = enrol(&service, &b, "/g1").await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert!(taken.message().contains("agent path /g1"), "{}", taken.message());
    for (hash, path) in [
        ("", ""),
        ("ab", ""),
        (&*"zz".repeat(32), ""),
        (&*b, "no-slash"),
        (&*b, "/a/../b"),
        (&*b, "/a//b"),
        (&*b, "/"),
        (&*b, "/a b"),
    ] {
        let error = enrol(&service, hash, path).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{hash} {path}");
    }
    let long = wire::EnrolRequest { ek_hash: b, note: "x".repeat(1025), agent_path: String::new() };
    assert_eq!(service.enrol(Request::new(long)).await.unwrap_err().code(), Code::InvalidArgument);
}
