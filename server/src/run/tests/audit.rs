//! What a whole server records.

use serde_json::Value;

use super::*;

fn lines(place: &Place) -> Vec<Value> {
    let text = String::from_utf8(std::mem::take(&mut *place.lines.lock().unwrap())).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_has_its_line_with_who_and_what() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let holder = Holder::new().await;
    let (path, chain) = attest(&server, &holder).await;
    let [token, attested] = <[Value; 2]>::try_from(lines(&place)).unwrap();
    assert_eq!((&token["service"], &token["method"]), (&"agent.v1.Agent".into(), &"CreateJoinToken".into()));
    assert_eq!(
        (&token["type"], &token["status"], &token["ttl"]),
        (&"audit".into(), &"success".into(), &60.into())
    );
    assert_eq!(token["caller_uid"], nix::unistd::getuid().as_raw());
    assert_eq!(token["caller_pid"], std::process::id());
    let program = std::env::current_exe().unwrap();
    assert_eq!(token["caller_path"], program.to_str().unwrap());
    assert!(
        token.get("caller_addr").is_none() && !token.to_string().contains(path.rsplit_once('/').unwrap().1)
    );

    let svid = X509Svid::parse(chain.clone()).unwrap();
    assert_eq!(attested["method"], "AttestAgent");
    assert_eq!(attested["agent_id"], format!("spiffe://example.org{path}"));
    assert_eq!(
        (&attested["node_attestor_type"], &attested["serial_number"]),
        (&"join_token".into(), &svid.serial.into())
    );
    for name in ["csr", "evidence_digest"] {
        assert_eq!(attested[name].as_str().unwrap().len(), 64, "{name}");
    }
    assert_eq!(attested["key_id"].as_str().unwrap().len(), 40);
    assert!(attested["caller_addr"].as_str().unwrap().starts_with("127.0.0.1:"));

    let agent = remote(&server, Some(holder.identity(chain))).await;
    let entry = create_entry(&server, &path, "/db").await;
    let created = lines(&place).remove(0);
    assert_eq!(
        (&created["entry_id"], &created["spiffe_id"]),
        (&entry.clone().into(), &"spiffe://example.org/db".into())
    );
    assert_eq!(
        (&created["selectors"], &created["dns_name"]),
        (&"unix:uid:1".into(), &"db.example.org".into())
    );
    assert_eq!((&created["x509_svid_ttl"], &created["admin"]), (&120.into(), &false.into()));

    // Polling leaves no lines; signing leaves one for each item.
    may_sync(&agent).await.unwrap();
    let params =
        [entry.as_str(), "no\u{202e}ne"].map(|id| NewX509svidParams { entry_id: id.into(), csr: vec![1] });
    let request = BatchNewX509svidRequest { params: params.to_vec() };
    SvidClient::new(agent.clone()).batch_new_x509svid(request).await.unwrap();
    let items = lines(&place);
    assert_eq!(items.len(), 2, "{items:?}");
    assert_eq!(items[0]["request_id"], items[1]["request_id"]);
    assert_eq!((&items[0]["status_code"], &items[1]["status_code"]), (&3.into(), &5.into()));
    assert_eq!(
        (&items[1]["entry_id"], &items[1]["caller_id"]),
        (&"no\u{202e}ne".into(), &format!("spiffe://example.org{path}").into())
    );

    // A refusal is recorded too, and so is what an operator reads.
    AgentClient::new(agent).list_agents(ListAgentsRequest::default()).await.unwrap_err();
    AgentClient::new(admin(&server).await).list_agents(ListAgentsRequest::default()).await.unwrap();
    let [refused, read] = <[Value; 2]>::try_from(lines(&place)).unwrap();
    assert_eq!((&refused["status"], &refused["status_code"]), (&"error".into(), &7.into()));
    assert_eq!((&read["status"], &read["method"]), (&"success".into(), &"ListAgents".into()));
    let as_whom = |line: &Value| [line["authorized_as"].clone(), line["authorized_via"].clone()];
    assert_eq!(as_whom(&refused), ["nobody", ""]);
    assert_eq!(as_whom(&read), ["local", "transport"]);
    assert_eq!(as_whom(&items[0]), ["agent", "datastore"]);
    server.stop().await.unwrap();
}

/// The only line there is says what the peer was told; it is returned.
fn only_line(place: &Place, told: &tonic::Status) -> Value {
    let [line] = <[Value; 1]>::try_from(lines(place)).unwrap();
    assert_eq!((&line["type"], &line["status"]), (&"audit".into(), &"error".into()));
    assert_eq!(line["status_code"], i32::from(told.code()));
    assert!(!told.message().is_empty());
    assert_eq!(line["status_message"], told.message());
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_is_told_and_recorded() {
    use hardroot_api::spire::api::server::entry::v1::BatchDeleteEntryRequest;
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let operator = admin(&server).await;

    // No message at all: where an entry should be is a tag that protobuf does not have.
    let mut raw = tonic::client::Grpc::new(operator.clone());
    raw.ready().await.unwrap();
    let request = Request::new(BatchDeleteEntryRequest { ids: vec!["\u{7f}".into()] });
    let path = http::uri::PathAndQuery::from_static("/spire.api.server.entry.v1.Entry/BatchCreateEntry");
    let codec = tonic_prost::ProstCodec::<BatchDeleteEntryRequest, BatchDeleteEntryRequest>::default();
    let told = raw.unary(request, path, codec).await.unwrap_err();
    assert!(told.message().contains("decode"), "{told}");
    assert_eq!(only_line(&place, &told)["method"], "BatchCreateEntry");

    // A request that is none.
    let request = MintX509svidRequest { csr: vec![1, 2, 3], ttl: 60 };
    let told = SvidClient::new(operator).mint_x509svid(request).await.unwrap_err();
    assert_eq!(told.code(), Code::InvalidArgument);
    let line = only_line(&place, &told);
    assert_eq!(
        (&line["method"], &line["csr"]),
        (&"MintX509SVID".into(), &crate::audit::sha256_hex(&[1, 2, 3]).into())
    );

    // A token that cannot be one, and a payload that is no payload.
    let csr = Holder::new().await.csr(None).await;
    for payload in [b"../token".to_vec(), vec![0xff; 4]] {
        let params = attest_agent_request::Params {
            data: Some(AttestationData { r#type: "join_token".into(), payload }),
            params: Some(AgentX509svidParams { csr: csr.clone() }),
        };
        let request = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
        let mut client = AgentClient::new(remote(&server, None).await);
        let mut answers = client.attest_agent(tokio_stream::iter([request])).await.unwrap().into_inner();
        let told = answers.message().await.unwrap_err();
        assert_eq!(told.code(), Code::InvalidArgument);
        let line = only_line(&place, &told);
        assert_eq!(
            (&line["reason"], &line["node_attestor_type"]),
            (&"malformed_evidence".into(), &"join_token".into())
        );
        assert!(line["caller_addr"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    server.stop().await.unwrap();
}

/// A place whose log takes nothing.
fn with_full_log() -> Place {
    let mut place = Place::with_disk_keys();
    let output = LogOutput::File("/dev/full".into());
    place.log = logs::subscriber(LogFormat::Json, LogLevel::Info, output).unwrap().1;
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_out_that_cannot_be_recorded() {
    let place = with_full_log();
    let server = place.start().await;
    let mut agents = AgentClient::new(admin(&server).await);
    let token = CreateJoinTokenRequest { ttl: 60, ..Default::default() };
    let refused = agents.create_join_token(token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("audit record could not be written"), "{refused}");
    // What hands nothing out goes on.
    agents.list_agents(ListAgentsRequest::default()).await.unwrap();
    let csr = Holder::new().await.csr(Some("spiffe://example.org/job")).await;
    let request = MintX509svidRequest { csr, ttl: 60 };
    let mint = SvidClient::new(admin(&server).await).mint_x509svid(request).await;
    assert_eq!(mint.unwrap_err().code(), Code::Internal);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unless_the_operator_prefers_to_go_on() {
    let place = with_full_log();
    let mut config = place.config();
    config.audit_log_required = false;
    let server =
        Box::pin(RunningServer::start(config, Arc::new(SystemClock), place.log.clone())).await.unwrap();
    journey(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_tells_of_itself_and_changes_its_log_level() {
    use hardroot_api::spire::api::server::debug::v1::GetInfoRequest;
    use hardroot_api::spire::api::server::debug::v1::debug_client::DebugClient;
    let place = Place::with_disk_keys();
    let clock = hardroot_runtime::clock::ManualClock::new(std::time::SystemTime::now());
    let started = RunningServer::start(place.config(), Arc::new(clock.clone()), place.log.clone());
    let server = Box::pin(started).await.unwrap();
    let mut client = DebugClient::new(admin(&server).await);
    let first = client.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((first.agents_count, first.entries_count, first.federated_bundles_count), (0, 0, 1));
    let chain = &first.svid_chain;
    assert_eq!(
        chain.iter().map(|c| c.id.as_ref().unwrap().path.as_str()).collect::<Vec<_>>(),
        ["/spire/server", ""]
    );
    assert_eq!(chain[0].subject, "O=SPIRE,C=US");
    assert!(chain[1].subject.ends_with("O=SPIFFE,C=US"), "{}", chain[1].subject);
    assert!(chain[0].expires_at < chain[1].expires_at);
    create_entry(&server, "/node", "/db").await;
    let cached = client.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(cached, first, "an answer is given again for five seconds");
    clock.advance(Duration::from_secs(5));
    assert_eq!(client.get_info(GetInfoRequest {}).await.unwrap().into_inner().entries_count, 1);
    server.stop().await.unwrap();
}
