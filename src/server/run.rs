//! The loop of a shard: take a batch, decide, send, sleep until something is due.

use std::future::poll_fn;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Node, Published, Request};
use crate::proxy::{Input, Output, Proxy};
use crate::transport::udp::{Sent, Sockets};

/// How often counters are copied to the control side.
const PUBLISH: Duration = Duration::from_secs(1);
/// Batches in a row before the runtime gets to look at its timers.
const ROUNDS: usize = 16;

/// Runs a shard on the current thread until it is told to stop.
pub(super) fn shard(
    node: Arc<Node>,
    proxy: Proxy,
    bound: Vec<UdpSocket>,
    requests: mpsc::Receiver<Request>,
    published: mpsc::Sender<Published>,
    ready: &SyncSender<io::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        match Sockets::new(bound) {
            Ok(sockets) => {
                // Who waits for this may have given up; then the stop flag is set.
                drop(ready.send(Ok(())));
                Box::pin(serve(&node, proxy, sockets, requests, published)).await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
}

async fn serve(
    node: &Node,
    mut proxy: Proxy,
    mut sockets: Sockets,
    mut requests: mpsc::Receiver<Request>,
    published: mpsc::Sender<Published>,
) {
    let mut publish_at = tokio::time::Instant::now() + PUBLISH;
    let sleep = tokio::time::sleep_until(publish_at);
    tokio::pin!(sleep);
    let mut armed = publish_at;
    while !node.is_stopping() {
        let due = proxy.poll_timeout().map_or(publish_at, |moment| node.deadline(moment).min(publish_at));
        // Waking too early costs a look; arming for every message would cost more.
        if due < armed || sleep.is_elapsed() {
            sleep.as_mut().reset(due);
            armed = due;
        }
        let mut request = requests.try_recv().ok();
        tokio::select! {
            biased;
            () = poll_fn(|context| sockets.poll_readable(context)) => {}
            () = &mut sleep => {}
            received = requests.recv() => request = received,
            () = node.stop.notified() => {}
        }
        if let Some(Request::Reload(config)) = request {
            proxy.handle(node.now(), Input::Reload(config));
            node.set_router(Arc::clone(proxy.router()));
            node.raise_reloaded();
        }
        for _ in 0..ROUNDS {
            let now = node.now();
            let more = sockets.receive(|listener, source, payload| {
                proxy.handle(now, Input::Datagram { listener, source, payload });
            });
            proxy.handle_timeout(now);
            drain(node, &mut proxy, &mut sockets);
            if !more {
                break;
            }
        }
        let now = tokio::time::Instant::now();
        if now >= publish_at {
            publish_at = now + PUBLISH;
            // When the control side is behind, the next copy brings everything.
            if let Ok(place) = published.try_reserve() {
                place.send(Published { counters: proxy.take_counters(), load: proxy.load() });
            }
            node.slots.shrink();
        }
        // Sockets that are always readable must not starve the runtime's own work.
        tokio::task::coop::consume_budget().await;
    }
}

fn drain(node: &Node, proxy: &mut Proxy, sockets: &mut Sockets) {
    while let Some(output) = proxy.poll_output() {
        match output {
            Output::Transmit(transmit) => match sockets.send(&transmit) {
                Sent::Yes => {}
                Sent::Later => proxy.count_unsent(),
                Sent::Never => proxy.handle(node.now(), Input::SendFailed { client: transmit.client }),
            },
            Output::Event(event) => node.raise(&event),
        }
    }
}
