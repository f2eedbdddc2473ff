//! Metrics: the shard's plain counters and the gate's counts, as Prometheus text.
//!
//! Counters are copied into `metrics` handles when somebody asks; the call path never touches them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::licence::standing::TRIAL_CODE;
use crate::licence::{Standing, Wanted};
use crate::metrics::{Counters, Direction, Histogram};
use crate::proxy::{Load, PeerView};
use crate::server::{Node, Published};
use crate::transport::stream::{Closed, Counts};

/// The recorder, and the last copy of the shard's counters.
pub(super) struct Exposition {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    counters: Counters,
    load: Load,
    streams: Counts,
    peers: Vec<PeerView>,
    certificates: Vec<(Arc<str>, i64)>,
}

impl Exposition {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        Self {
            recorder,
            handle,
            counters: Counters::default(),
            load: Load::default(),
            streams: Counts::default(),
            peers: Vec::new(),
            certificates: Vec::new(),
        }
    }

    /// A new copy of the shard's counters.
    pub(super) fn take(&mut self, published: Published) {
        (self.counters, self.load) = (published.counters, published.load);
        (self.streams, self.peers) = (published.streams, published.peers);
        self.certificates = published.certificates;
    }

    /// The addresses of targets, as they were when the shard last told.
    pub(super) fn peers(&self) -> &[PeerView] {
        &self.peers
    }

    /// The text.
    pub(super) fn render(&self, node: &Node) -> String {
        with_local_recorder(&self.recorder, || self.copy(node));
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        let Counters { answer_delays, loops, .. } = &self.counters;
        write_histogram(
            &mut text,
            ("sipweir_answer_delay_seconds", "Time from INVITE to the first 2xx"),
            [("", answer_delays)],
        );
        write_histogram(&mut text, ("sipweir_loop_seconds", "What the worker does between two sleeps"), [("", loops)]);
        let steps = self.counters.steps().filter(|(_, times)| times.count() > 0);
        let steps: Vec<_> = steps.map(|(step, times)| (format!("step=\"{step}\""), times)).collect();
        write_histogram(
            &mut text,
            (
                "sipweir_overflow_step_seconds",
                "How long steps of overflow plans took, to the next one or to the end of the INVITE",
            ),
            steps.iter().map(|(label, times)| (label.as_str(), *times)),
        );
        write_licences(&mut text, &node.gate.standing(), &node.config().settings().wanted);
        text
    }

    fn copy(&self, node: &Node) {
        let view = node.gate.view();
        for pool in &view.pools {
            let name = pool.name.to_string();
            for (state, channels) in [("reserved", pool.reserved), ("held", pool.held)] {
                gauge!("sipweir_pool_channels", "pool" => name.clone(), "state" => state).set(channels);
            }
            gauge!("sipweir_pool_capacity_channels", "pool" => name.clone()).set(pool.capacity);
            gauge!("sipweir_pool_lent_channels", "pool" => name.clone()).set(pool.lent);
            gauge!("sipweir_pool_set_aside_channels", "pool" => name.clone()).set(pool.set_aside);
            gauge!("sipweir_pool_peak_channels", "pool" => name.clone()).set(pool.peak);
            counter!("sipweir_pool_admissions_total", "pool" => name).absolute(pool.admitted);
        }
        for service in &view.services {
            let name = service.name.to_string();
            gauge!("sipweir_service_calls", "service" => name.clone()).set(service.calls);
            counter!("sipweir_admissions_total", "service" => name.clone()).absolute(service.admitted);
            counter!("sipweir_service_refusals_total", "service" => name.clone()).absolute(service.refused);
            counter!("sipweir_emergency_calls_total", "service" => name.clone()).absolute(service.emergencies);
            counter!("sipweir_emergency_beyond_total", "service" => name.clone()).absolute(service.beyond);
            gauge!("sipweir_service_waiting_calls", "service" => name.clone()).set(service.waiting);
            gauge!("sipweir_service_unlicensed", "service" => name).set(if service.lacks.is_some() { 1 } else { 0 });
        }
        for trunk in &view.trunks {
            gauge!("sipweir_trunk_calls", "trunk" => trunk.name.to_string()).set(trunk.calls);
        }
        gauge!("sipweir_calls").set(view.calls);
        for (refusal, count) in self.counters.refusals() {
            counter!("sipweir_refusals_total", "reason" => refusal.label()).absolute(count);
        }
        for (service, step, count) in self.counters.overflows() {
            if let Some(service) = view.services.get(usize::from(service.0)) {
                counter!("sipweir_overflows_total", "service" => service.name.to_string(), "step" => step)
                    .absolute(count);
            }
        }
        for (service, end, count) in self.counters.waits() {
            if let Some(service) = view.services.get(usize::from(service.0)) {
                counter!("sipweir_waits_total", "service" => service.name.to_string(), "end" => end.label())
                    .absolute(count);
            }
        }
        counter!("sipweir_overflow_loops_total").absolute(self.counters.overflow_loops);
        for (reason, count) in self.counters.ends() {
            counter!("sipweir_calls_ended_total", "reason" => reason.label()).absolute(count);
        }
        counter!("sipweir_calls_transferred_total").absolute(self.counters.transfers);
        gauge!("sipweir_suspect_calls").set(self.load.suspects as f64);
        for (result, count) in ["found", "not_found", "failed"].into_iter().zip(self.counters.lookups) {
            counter!("sipweir_lookups_total", "result" => result).absolute(count);
        }
        for (file, ends) in &self.certificates {
            gauge!("sipweir_certificate_expires_timestamp_seconds", "file" => file.to_string()).set(*ends as f64);
        }
        counter!("sipweir_calls_answered_total").absolute(self.counters.answered);
        let word = |direction| if direction == Direction::In { "in" } else { "out" };
        for (direction, method, count) in self.counters.requests() {
            counter!("sipweir_requests_total", "direction" => word(direction), "method" => method.label())
                .absolute(count);
        }
        for (direction, method, status, count) in self.counters.responses() {
            let labels = [
                ("direction", word(direction).to_owned()),
                ("method", method.label().to_owned()),
                ("status", status.to_string()),
            ];
            counter!("sipweir_responses_total", &labels).absolute(count);
        }
        for (reason, count) in self.counters.drops() {
            counter!("sipweir_drops_total", "reason" => reason).absolute(count);
        }
        counter!("sipweir_retransmissions_total").absolute(self.counters.retransmissions);
        for peer in &self.peers {
            let labels = [("target", peer.target.to_string()), ("address", peer.address.clone())];
            let takes_calls = peer.is_up && !peer.is_drained && !peer.is_resting;
            gauge!("sipweir_target_up", &labels).set(if peer.is_up { 1 } else { 0 });
            gauge!("sipweir_target_available", &labels).set(if takes_calls { 1 } else { 0 });
            gauge!("sipweir_target_calls", &labels).set(peer.calls);
            counter!("sipweir_target_failures_total", &labels).absolute(peer.failures);
        }
        let streams = &self.streams;
        gauge!("sipweir_connections").set(streams.open as f64);
        for (how, count) in
            [("accepted", streams.accepted), ("connected", streams.connected), ("refused", streams.refused)]
        {
            counter!("sipweir_connections_total", "how" => how).absolute(count);
        }
        for (reason, count) in Closed::ALL.into_iter().zip(streams.closed) {
            counter!("sipweir_connections_closed_total", "reason" => reason.label()).absolute(count);
        }
        counter!("sipweir_accept_errors_total").absolute(streams.accept_errors);
        gauge!("sipweir_transactions", "side" => "server").set(self.load.servers as f64);
        gauge!("sipweir_transactions", "side" => "client").set(self.load.clients as f64);
        gauge!("sipweir_timers").set(self.load.timers as f64);
        for (kind, count) in node.event_counts() {
            counter!("sipweir_events_total", "event" => kind.label()).absolute(count);
        }
        let sinks = node.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        for (sink, counts) in &*sinks {
            let [delivered, failed, dropped, queued] =
                [&counts.delivered, &counts.failed, &counts.dropped, &counts.queued].map(|n| n.load(Ordering::Relaxed));
            for (result, count) in [("delivered", delivered), ("failed", failed), ("dropped", dropped)] {
                counter!("sipweir_sink_notices_total", "sink" => sink.to_string(), "result" => result).absolute(count);
            }
            gauge!("sipweir_sink_queued", "sink" => sink.to_string()).set(queued as f64);
        }
        gauge!("sipweir_ready").set(if node.is_ready() { 1 } else { 0 });
        gauge!("sipweir_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    }
}

/// A histogram counted elsewhere: the recorder takes single values only, tens of thousands a second here.
fn write_histogram<'a>(
    text: &mut String,
    (name, help): (&str, &str),
    series: impl IntoIterator<Item = (&'a str, &'a Histogram)>,
) {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return;
    }
    let mut write = || -> std::fmt::Result {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        for (label, histogram) in series.by_ref() {
            let (comma, braced) = if label.is_empty() { ("", String::new()) } else { (",", format!("{{{label}}}")) };
            for (bound, count) in histogram.buckets() {
                writeln!(text, "{name}_bucket{{{label}{comma}le=\"{}\"}} {count}", seconds(bound))?;
            }
            let (count, sum) = (histogram.count(), seconds(histogram.sum_micros()));
            writeln!(text, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}")?;
            writeln!(text, "{name}_sum{braced} {sum}\n{name}_count{braced} {count}\n")?;
        }
        Ok(())
    };
    write().expect("a String takes everything");
}

/// Licences come and go, and the recorder would go on naming those that are gone.
fn write_licences(text: &mut String, standing: &Standing, wanted: &Wanted) {
    let escaped = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"");
    let mut write = |name: &str, help: &str, label: &str, values: &[(&str, i64)]| -> std::fmt::Result {
        if !values.is_empty() {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge")?;
        }
        for (of, value) in values {
            writeln!(text, "{name}{{{label}=\"{}\"}} {value}", escaped(of))?;
        }
        Ok(())
    };
    // What is configured and not licensed is 0, not absent.
    let mut channels: BTreeMap<&str, i64> = wanted.pools.iter().map(|pool| (&*pool.product, 0)).collect();
    channels.extend(standing.channels.iter().map(|(of, number)| (of.as_str(), i64::from(*number))));
    let channels: Vec<_> = channels.into_iter().collect();
    let counts: Vec<_> = standing.counts.iter().map(|(of, number)| (of.as_str(), i64::from(*number))).collect();
    let mut features: BTreeMap<&str, i64> =
        wanted.services.iter().filter_map(|service| Some((service.feature.as_deref()?, 0))).collect();
    features.extend(standing.features.iter().map(|of| (of.as_str(), 1)));
    let features: Vec<_> = features.into_iter().collect();
    let mut ends: Vec<_> = standing
        .rows
        .iter()
        .filter(|row| row.state.counts())
        .filter_map(|row| Some((row.code.as_str(), row.term?.0)))
        .chain(standing.trial_until.filter(|_| wanted.leans_on_trial(standing)).map(|until| (TRIAL_CODE, until.0)))
        .collect();
    // A licence of several lines ends once.
    ends.sort_unstable();
    ends.dedup();
    write("sipweir_licence_channels", "Channels licences in force give", "product", &channels)
        .and_then(|()| write("sipweir_licence_count", "Counted things licences in force give", "product", &counts))
        .and_then(|()| write("sipweir_licence_feature", "1 for a feature in force", "feature", &features))
        .and_then(|()| {
            let help = "When a licence in force ends, in seconds since 1970";
            write("sipweir_licence_expires_timestamp_seconds", help, "licence", &ends)
        })
        .expect("a String takes everything");
}

fn describe() {
    describe_gauge!("sipweir_pool_channels", "Channels in use, of calls being set up (reserved) and answered (held)");
    describe_gauge!("sipweir_pool_capacity_channels", "Channels a pool has");
    describe_gauge!("sipweir_pool_lent_channels", "Channels in use by services of other pools");
    describe_gauge!("sipweir_pool_set_aside_channels", "Free channels kept for services with a reserve");
    describe_gauge!("sipweir_pool_peak_channels", "Most channels in use at a time since the start");
    describe_counter!("sipweir_pool_admissions_total", "Calls that took a channel of the pool");
    describe_gauge!("sipweir_service_calls", "Calls of a service in progress");
    describe_counter!("sipweir_admissions_total", "Calls admitted to a service");
    describe_counter!(
        "sipweir_service_refusals_total",
        "Calls of a service that found its limit reached or no channel"
    );
    describe_gauge!("sipweir_service_unlicensed", "1 while a service lacks a licence");
    describe_gauge!("sipweir_trunk_calls", "Calls of a trunk in progress");
    describe_gauge!("sipweir_calls", "Calls in progress");
    describe_counter!("sipweir_refusals_total", "Times a rung of the admission ladder said no");
    describe_counter!("sipweir_overflows_total", "Steps of overflow plans taken");
    describe_counter!(
        "sipweir_overflow_loops_total",
        "Steps `route` passed over because the call had been there before"
    );
    describe_counter!("sipweir_emergency_calls_total", "Emergency calls");
    describe_counter!("sipweir_emergency_beyond_total", "Emergency calls let in beyond a limit or a licence");
    describe_gauge!("sipweir_service_waiting_calls", "Calls of a service that wait for a channel");
    describe_counter!(
        "sipweir_waits_total",
        "Steps `wait` of overflow plans, by how they ended or why they did not begin"
    );
    describe_counter!("sipweir_calls_ended_total", "Calls ended");
    describe_counter!("sipweir_calls_transferred_total", "Calls whose channel was given back while they went on");
    describe_counter!("sipweir_calls_answered_total", "Calls answered");
    describe_counter!("sipweir_requests_total", "Requests received and sent, copies included");
    describe_counter!("sipweir_responses_total", "Responses received and sent, copies included");
    describe_counter!("sipweir_drops_total", "Datagrams that went no further");
    describe_counter!("sipweir_retransmissions_total", "Copies of requests absorbed or answered from memory");
    describe_gauge!("sipweir_target_up", "1 while an address of a target answers, as far as is known");
    describe_gauge!(
        "sipweir_target_available",
        "1 while it gets new calls: up, not draining, not resting after a Retry-After"
    );
    describe_gauge!("sipweir_target_calls", "Calls in progress at an address of a target");
    describe_counter!("sipweir_target_failures_total", "Calls and probes that failed at an address of a target");
    describe_gauge!("sipweir_connections", "Connections open (TCP, TLS, WebSocket)");
    describe_counter!(
        "sipweir_connections_total",
        "Connections accepted, opened by us, and refused for there being too many"
    );
    describe_counter!("sipweir_connections_closed_total", "Connections closed");
    describe_counter!("sipweir_accept_errors_total", "Times the system would not give another connection");
    describe_gauge!("sipweir_suspect_calls", "Calls that give no sign of life, and make room when their pool is full");
    describe_counter!("sipweir_lookups_total", "Questions for names, by what came of them");
    describe_gauge!("sipweir_certificate_expires_timestamp_seconds", "When a listener's certificate ends");
    describe_gauge!("sipweir_transactions", "Transactions alive");
    describe_gauge!("sipweir_timers", "Timers running");
    describe_counter!("sipweir_events_total", "Events raised");
    describe_counter!("sipweir_sink_notices_total", "Notices delivered to a sink, attempts failed, notices given up");
    describe_gauge!("sipweir_sink_queued", "Notices that wait for a sink");
    describe_gauge!("sipweir_ready", "1 while the node takes calls");
    describe_gauge!("sipweir_build_info", "The version that runs");
}
