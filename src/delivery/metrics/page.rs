//! What a scrape tells. Every label is a name from configuration or a fixed word: no value, no text of a source, nothing that a caller
//! made up. So what is told cannot leak, and there is no more of it than configuration has names.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

use crate::{
    audit::Log,
    broker::Broker,
    delivery::{
        admin::{Host, HostStatus, SourceFacts},
        places::Connections,
    },
    export,
    measure::{BOUNDS, Latency},
    name::{SourceName, ToolName},
    redact::log,
    store::Absent,
};

/// All that can be scraped. It counts nothing itself: it reads what others count.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Connections to both sockets are told beside what the two know.
    pub fn new(broker: Arc<Broker>, host: Arc<dyn Host>, tools: Connections, admin: Connections) -> Self {
        let mut registry = Registry::with_prefix("valetkey");
        registry.register_collector(Box::new(Facts { broker, host, tools, admin }));
        Self { registry }
    }

    /// The page, as OpenMetrics has it.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

struct Facts {
    broker: Arc<Broker>,
    host: Arc<dyn Host>,
    tools: Connections,
    admin: Connections,
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Facts")
    }
}

impl Collector for Facts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let host = self.host.status();
        self.daemon(&mut page, &host)?;
        let sources: Vec<_> = self.host.sources().into_iter().collect();
        audit(&mut page, self.broker.audit())?;
        exporters(&mut page, &host.exporters)?;
        upstreams(&mut page, &sources)?;
        calls(&mut page, &sources)?;
        self.secrets(&mut page)?;
        self.callers(&mut page)
    }
}

impl Facts {
    fn daemon(&self, page: &mut Page<'_>, host: &HostStatus) -> fmt::Result {
        page.info("build", "The daemon's version.", [[("version", env!("CARGO_PKG_VERSION"))]])?;
        page.info(
            "protection",
            "How values at rest are protected and callers attested, as `valetkey status` shows it.",
            [[("memory", host.memory_protection.as_str()), ("attestation", host.attestation.as_str())]],
        )?;
        page.gauge(
            "ready",
            "1 when all that the policy requires has been loaded; until then no session is opened.",
            None,
            one(self.broker.is_ready()),
        )?;
        page.gauge("start_timestamp", "When the daemon started, since 1970.", SECONDS, [(NO_LABELS, date(host.started))])?;
        page.gauge(
            "configured_timestamp",
            "When the configuration in force was loaded, since 1970.",
            SECONDS,
            [(NO_LABELS, date(host.configured))],
        )?;
        let (done, failed) = host.reloads;
        page.counter("reloads", "Reloads, by how they ended.", [([("result", "done")], done), ([("result", "failed")], failed)])?;
        page.gauge(
            "reload_failed",
            "1 while the configuration in force is not the one on disk, because the last reload failed.",
            None,
            one(!host.reload_error.is_empty()),
        )?;
        page.gauge(
            "arena_locked",
            "Memory set apart and locked for values.",
            BYTES,
            [(NO_LABELS, host.arena_locked_bytes as f64)],
        )?;
        page.gauge("arena_used", "Of it, used by values.", BYTES, [(NO_LABELS, host.arena_used_bytes as f64)])?;
        let connections =
            [([("socket", "tools")], self.tools.count() as f64), ([("socket", "admin")], self.admin.count() as f64)];
        page.gauge("connections", "Connections that are open.", None, connections)?;
        let ends = host.remote.as_ref().and_then(|remote| remote.certificate_until).map(|until| (NO_LABELS, date(until)));
        page.gauge(
            "remote_certificate_end_timestamp",
            "When the certificate ends that callers over the network are shown, since 1970; no sample where there is none.",
            SECONDS,
            ends,
        )
    }

    fn secrets(&self, page: &mut Page<'_>) -> fmt::Result {
        let listing = self.broker.store().listing();
        let states = listing.iter().flat_map(|(name, (source, entry))| {
            let is = match entry {
                Ok(_) => "held",
                Err(Absent::Revoked) => "revoked",
                Err(Absent::Stale) => "stale",
                Err(_) => "missing",
            };
            let labels = move |state| [("secret", name.as_str()), ("source", source.as_str()), ("state", state)];
            STATES.map(|state| (labels(state), f64::from(u8::from(state == is))))
        });
        page.gauge("secret_state", "1 for the state that the secret is in, 0 for the others.", None, states)?;
        let held = || listing.iter().filter_map(|(name, (_, entry))| Some(([("secret", name.as_str())], entry.as_ref().ok()?)));
        let ages = held().map(|(labels, held)| (labels, held.age.as_secs_f64()));
        page.gauge("secret_age", "How long ago the source said that what is held is current.", SECONDS, ages)?;
        let bounds = held().filter_map(|(labels, held)| Some((labels, held.max_stale?.as_secs_f64())));
        page.gauge("secret_max_stale", "The age at which it is wiped; no sample where it cannot change.", SECONDS, bounds)
    }

    fn callers(&self, page: &mut Page<'_>) -> fmt::Result {
        let policy = self.broker.policy();
        let tools: Vec<_> = policy.tools().map(|(name, _)| name).collect();
        let open = tools.iter().map(|tool| ([("tool", tool.as_str())], self.broker.sessions().count_of(tool) as f64));
        page.gauge("sessions", "Open sessions.", None, open)?;
        let mut leases: std::collections::BTreeMap<_, f64> = Default::default();
        for lease in self.broker.leases().map(|leases| leases.facts()).unwrap_or_default() {
            *leases.entry(lease.tool).or_default() += 1.0;
        }
        let leases = leases.iter().map(|(tool, count)| ([("tool", tool.as_str())], *count));
        page.gauge("leases", "Credentials that were made for open sessions.", None, leases)?;
        let contained = self.broker.contained();
        let contained = tools.iter().map(|tool| ([("tool", tool.as_str())], f64::from(u8::from(contained.contains(*tool)))));
        page.gauge("contained", "1 for a tool that is contained.", None, contained)?;
        let handouts = tools.iter().map(|tool| ([("tool", tool.as_str())], self.broker.tally(tool).handouts.load(Relaxed)));
        page.counter("handouts", "Secrets handed out.", handouts)?;
        self.refusals(page, &tools)?;
        self.redactions(page, &tools)?;
        self.alarms(page)?;
        let latency = [(NO_LABELS, self.broker.latency())];
        page.histogram(
            "handout_duration",
            "Time to attest, decide, read and put on record what one call asks for; refusals are not in it.",
            latency,
        )
    }
}

impl Facts {
    fn refusals(&self, page: &mut Page<'_>, tools: &[&ToolName]) -> fmt::Result {
        let counts = self.broker.refusals();
        let known = || counts.iter().filter(|((tool, ..), _)| tool.as_ref().is_none_or(|tool| tools.contains(&tool)));
        let word = |tool: &Option<ToolName>| tool.as_ref().map_or_else(String::new, ToString::to_string);
        let mut reasons: BTreeMap<(String, &str), u64> = BTreeMap::new();
        known().for_each(|((tool, reason, _), count)| *reasons.entry((word(tool), reason.word())).or_default() += count);
        let refusals =
            reasons.into_iter().map(|((tool, reason), count)| ([("tool", tool), ("reason", reason.to_owned())], count));
        page.counter(
            "refusals",
            "Requests that were refused, by reason (docs/errors.md). No tool: one that the policy does not know.",
            refusals,
        )?;
        let limits = known().filter_map(|((tool, _, limit), count)| {
            Some(([("tool", word(tool)), ("limit", (*limit)?.name().to_owned())], *count))
        });
        page.counter("limits_reached", "Of these, the ones over a limit, by limit (docs/limits.md).", limits)
    }

    fn alarms(&self, page: &mut Page<'_>) -> fmt::Result {
        let alarms = self.broker.alarms();
        let raised = alarms.iter().flat_map(|alarms| alarms.counts()).map(|(kind, count)| ([("alarm", kind.word())], count));
        let logins = self.broker.logins_refused();
        let logins = logins.iter().map(|(reason, count)| ([("reason", *reason)], *count));
        page.counter("logins_refused", "Callers over the network who did not prove who they are, by what was wrong.", logins)?;
        page.counter("alarms", "Alarms, by the rule of configuration that raised them.", raised)?;
        let delivered = alarms
            .iter()
            .flat_map(|alarms| alarms.deliveries())
            .flat_map(|(to, deliveries)| deliveries.read().map(|(result, count)| ([("to", to), ("result", result)], count)));
        page.counter("alarm_deliveries", "What became of them on their way to a hook or a webhook.", delivered)
    }

    fn redactions(&self, page: &mut Page<'_>, tools: &[&ToolName]) -> fmt::Result {
        let listing = self.broker.store().listing();
        let redactions = self.broker.redactions();
        let known = redactions.iter().filter(|(kind, _)| {
            kind.tool.as_ref().is_none_or(|tool| tools.contains(&tool))
                && kind.secret.as_ref().is_none_or(|secret| listing.contains_key(secret))
        });
        let samples = known.map(|(kind, count)| {
            let labels = [
                ("tool", kind.tool.as_ref().map_or("", |tool| tool.as_str())),
                ("secret", kind.secret.as_ref().map_or("", |secret| secret.as_str())),
                ("channel", kind.channel.word()),
                ("encoding", kind.encoding),
            ];
            (labels, *count)
        });
        page.counter(
            "redactions",
            "Values found in what launched tools wrote, in texts given to be cleaned, and in the daemon's own log. No tool: an operator's text, or the log. No secret: the shape of a key.",
            samples,
        )?;
        page.counter(
            "log_redactions",
            "Lines of the daemon's own log that a value was taken out of: there should be none.",
            [(NO_LABELS, log::redacted_lines())],
        )
    }
}

fn audit(page: &mut Page<'_>, log: &Log) -> fmt::Result {
    if log.public_key().is_none() {
        return Ok(());
    }
    let state = log.state();
    page.gauge(
        "audit_writable",
        "1 while the audit log can be written; while it cannot, nothing is handed out.",
        None,
        one(state.down.is_none()),
    )?;
    page.counter("audit_records", "Records written to the audit log.", [(NO_LABELS, state.records)])?;
    page.counter("audit_lost", "Records refused while the audit log could not be written.", [(NO_LABELS, state.lost)])?;
    page.histogram(
        "audit_sync_duration",
        "Time of one write and sync, which all records that wait share.",
        [(NO_LABELS, log.syncs())],
    )
}

fn exporters(page: &mut Page<'_>, exporters: &[export::State]) -> fmt::Result {
    let each = || exporters.iter().map(|state| ([("exporter", state.name.as_str()), ("kind", state.kind)], state));
    let lag = |state: &export::State| {
        let since = state.waits_since.filter(|_| state.waiting > 0);
        since.and_then(|since| since.elapsed().ok()).unwrap_or_default().as_secs_f64()
    };
    let up = each().map(|(labels, state)| (labels, f64::from(u8::from(state.problem.is_none()))));
    page.gauge("audit_export_up", "1 while the exporter's last attempt went well.", None, up)?;
    let last = each().map(|(labels, state)| (labels, state.seq as f64));
    page.gauge("audit_export_last", "The number of the last record that arrived.", None, last)?;
    let waiting = each().map(|(labels, state)| (labels, state.waiting as f64));
    page.gauge("audit_export_waiting", "Records on disk that did not arrive yet.", None, waiting)?;
    let lags = each().map(|(labels, state)| (labels, lag(state)));
    page.gauge("audit_export_lag", "Age of the oldest record that did not arrive yet.", SECONDS, lags)?;
    let sent = each().map(|(labels, state)| (labels, state.sent));
    page.counter("audit_export_sent", "Records that arrived; after a failure some may arrive twice.", sent)?;
    let refused = each().map(|(labels, state)| (labels, state.refused));
    page.counter("audit_export_refused", "Records that the other end did not want.", refused)?;
    let lost = each().map(|(labels, state)| (labels, state.lost));
    page.counter("audit_export_lost", "Records that were removed from the log before they were sent.", lost)
}

const STATES: [&str; 4] = ["held", "stale", "revoked", "missing"];

fn upstreams(page: &mut Page<'_>, sources: &[(SourceName, SourceFacts)]) -> fmt::Result {
    let each = || sources.iter().map(|(name, facts)| ([("source", name.as_str())], facts));
    let kinds = sources.iter().map(|(name, facts)| [("source", name.as_str()), ("kind", facts.kind)]);
    page.info("source", "The sources of the configuration, and their kinds.", kinds)?;
    let reachable = each().map(|(labels, facts)| (labels, f64::from(u8::from(facts.loaded && facts.state.outage.is_none()))));
    page.gauge(
        "source_reachable",
        "1 when its last call was answered; 0 in an outage, and before its first answer.",
        None,
        reachable,
    )?;
    let outages = each().map(|(labels, facts)| {
        let since = facts.state.outage.as_ref().map(|(since, _)| *since);
        (labels, since.and_then(|since| since.elapsed().ok()).unwrap_or_default().as_secs_f64())
    });
    page.gauge("source_outage", "How long it has not been reachable; 0 when it is.", SECONDS, outages)?;
    let last_good = each().filter_map(|(labels, facts)| Some((labels, date(facts.state.last_good?))));
    page.gauge("source_last_good_timestamp", "When it last answered, since 1970.", SECONDS, last_good)?;
    let refused = each().map(|(labels, facts)| (labels, facts.state.refused.len() as f64));
    page.gauge("source_refused_secrets", "Secrets that it does not give.", None, refused)?;
    let logins = || each().filter_map(|(labels, facts)| Some((labels, facts.login.as_ref()?)));
    let valid = logins().map(|(labels, login)| (labels, f64::from(u8::from(login.problem.is_none()))));
    page.gauge(
        "source_login_ok",
        "1 when the daemon's own login there works; no sample where there is none to tell of.",
        None,
        valid,
    )?;
    let expiries = logins().filter_map(|(labels, login)| Some((labels, date(login.expires?))));
    page.gauge(
        "source_login_expiry_timestamp",
        "When that login runs out, since 1970; no sample where it does not.",
        SECONDS,
        expiries,
    )
}

fn calls(page: &mut Page<'_>, sources: &[(SourceName, SourceFacts)]) -> fmt::Result {
    let each = || {
        let of = |(name, facts): &'_ (SourceName, SourceFacts)| (name.to_string(), facts.calls.clone());
        sources.iter().map(of).flat_map(|(name, calls)| calls.into_iter().map(move |call| (name.clone(), call)))
    };
    let all: Vec<_> = each().collect();
    let took = all
        .iter()
        .map(|(source, (operation, counts))| ([("source", source.as_str()), ("operation", *operation)], &counts.latency));
    page.histogram("source_call_duration", "Calls to it, by operation, however they ended.", took)?;
    let failed: Vec<_> = all.iter().map(|(source, (operation, counts))| (source, operation, counts.failed())).collect();
    let failed = failed.iter().flat_map(|(source, operation, failed)| {
        failed.iter().map(move |(cause, count)| {
            (
                [
                    ("source", (*source).clone()),
                    ("operation", (**operation).to_owned()),
                    ("cause", cause.to_string().replace(' ', "_")),
                ],
                *count,
            )
        })
    });
    page.counter("source_call_failures", "Of these, the ones that failed, by cause.", failed)
}

const NO_LABELS: NoLabels = [];

type NoLabels = [(&'static str, &'static str); 0];
const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);

fn one(is: bool) -> [(NoLabels, f64); 1] {
    [(NO_LABELS, f64::from(u8::from(is)))]
}

fn date(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The page as it is written, family by family. A family without a sample is named all the same.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn family<L: EncodeLabelSet, V>(
        &mut self,
        (name, help, unit, kind): (&str, &str, Option<Unit>, MetricType),
        samples: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            if std::mem::size_of::<L>() == 0 {
                return write(&mut family, value);
            }
            write(&mut family.encode_family(&labels)?, value)
        })
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        self.family((name, help, unit, MetricType::Gauge), samples, |sample, value| sample.encode_gauge(&value))
    }

    fn counter<L: EncodeLabelSet>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (L, u64)>) -> fmt::Result {
        let none = None::<&Exemplar<NoLabelSet, u64>>;
        self.family((name, help, None, MetricType::Counter), samples, |sample, value| sample.encode_counter(&value, none))
    }

    fn info<L: EncodeLabelSet>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = L>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        samples.into_iter().try_for_each(|labels| family.encode_info(&labels))
    }

    /// Of durations.
    fn histogram<'l, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, &'l Latency)>,
    ) -> fmt::Result {
        self.family((name, help, SECONDS, MetricType::Histogram), samples, |sample, latency: &Latency| {
            let (counts, sum) = latency.read();
            let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(counts).collect();
            sample.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        refresh::SourceState,
        source::{Calls, Cause, SourceError},
    };

    #[derive(Debug)]
    struct Sources(Vec<SourceName>, Calls);

    impl Collector for Sources {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let facts = || SourceFacts {
                kind: "vault",
                state: SourceState::default(),
                login: None,
                loaded: true,
                calls: self.1.counts(),
            };
            let sources: Vec<_> = self.0.iter().map(|name| (name.clone(), facts())).collect();
            calls(&mut Page(encoder), &sources)
        }
    }

    #[tokio::test]
    async fn calls_are_told_by_operation_and_cause_and_no_detail() {
        let made = Calls::new(1);
        for cause in [None, Some(Cause::NotFound), Some(Cause::Unreachable), Some(Cause::Unreachable)] {
            let result = cause.map_or(Ok(()), |cause| Err(SourceError::new(cause, "a detail that quotes")));
            assert_eq!(made.make("GetSecretValue", async { result.clone() }).await, result);
        }
        let mut registry = Registry::with_prefix("valetkey");
        registry.register_collector(Box::new(Sources(vec!["one".parse().unwrap(), "other".parse().unwrap()], made)));
        let page = Metrics { registry }.page().unwrap();
        for source in ["one", "other"] {
            for (series, value) in [
                (format!("duration_seconds_count{{source=\"{source}\",operation=\"GetSecretValue\"}}"), 4),
                (format!("failures_total{{source=\"{source}\",operation=\"GetSecretValue\",cause=\"not_found\"}}"), 1),
                (format!("failures_total{{source=\"{source}\",operation=\"GetSecretValue\",cause=\"unreachable\"}}"), 2),
            ] {
                assert!(page.contains(&format!("valetkey_source_call_{series} {value}\n")), "{series} in {page}");
            }
        }
        assert!(page.contains("le=\"+Inf\"") && !page.contains("quotes"), "{page}");
    }
}
