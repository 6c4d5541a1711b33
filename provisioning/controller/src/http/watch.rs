//! `GET /v1/watch`: node changes as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;

use super::auth::OperatorCaller;
use super::problem::Failure;
use crate::app::App;
use crate::store::nodes::{self, NodeView};

/// A comment is sent when nothing else was for this long, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

fn event(view: &NodeView) -> Event {
    // A NodeView is plain data and always has a JSON form.
    Event::default().event("node").json_data(view).unwrap_or_default()
}

async fn all(app: &App) -> Vec<NodeView> {
    app.store.read(|tx| nodes::list(tx, None)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read the nodes for a watcher");
        Vec::new()
    })
}

/// Every node first, then each one that changes, as a JSON object; a watcher that falls behind is sent every node again. The
/// stream ends when the controller stops or the caller's certificate counts no more.
#[utoipa::path(get, path = "/v1/watch", tag = "operator", summary = "Every node, then each one that changes, as server-sent events", responses((status = 200, description = "events named node, data NodeView", body = NodeView, content_type = "text/event-stream")))]
pub async fn watch(
    State(app): State<Arc<App>>,
    OperatorCaller { standing, .. }: OperatorCaller,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    // Listening begins before reading: what changes between is sent twice and never missed.
    let changes = BroadcastStream::new(app.changes());
    let first = all(&app).await;
    let job = app.clone();
    let later = changes
        .then(move |change| {
            let app = job.clone();
            async move {
                match change {
                    Ok(view) => vec![view],
                    Err(_lagged) => all(&app).await,
                }
            }
        })
        .flat_map(stream::iter);
    let mut stop = app.stop.clone();
    let ended = async move {
        tokio::select! { () = crate::server::stopped(&mut stop) => {}, _ = standing.lost() => {} }
    };
    let views = stream::iter(first).chain(later).take_until(Box::pin(ended));
    let events = views.map(|view| Ok(event(&view)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
