//! `cairn-controller serve`: everything started, watched over, and stopped in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::clock::Clock;
use crate::dir::{self, Dir};
use crate::http::{self, boot::BootService};
use crate::online::{self, OnlineKeys};
use crate::patience::Patience;
use crate::server::{self, Transport};
use crate::store::{Store, certs, nodes, plans};
use crate::tls::{self, ServerCert};
use crate::{config, metrics, pki};

/// Running requests have this long to finish after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);
/// How often lost nodes are looked for.
const LOST_EVERY: Duration = Duration::from_secs(1);
/// How often revoked certificates are read again (another process may revoke an operator's).
const REVOKED_EVERY: Duration = Duration::from_secs(10);
/// How often the server's own certificate is looked at.
const CERT_EVERY: Duration = Duration::from_secs(3600);

/// What `serve` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The controller's folder.
    pub dir: Dir,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the boot service listens, and its folder.
    pub boot: Option<(SocketAddr, PathBuf)>,
    /// The kernel command line for netboot; `None` takes the boot folder's `cmdline` file.
    pub boot_cmdline: Option<String>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Keys of the online TUF roles.
    pub online_keys: Option<PathBuf>,
    /// What each listener puts up with.
    pub patience: Patience,
    /// Life of node certificates in seconds.
    pub node_life: u64,
    /// The clock.
    pub clock: Clock,
}

/// Kernel command line where nothing says otherwise.
const DEFAULT_CMDLINE: &str = "console=tty0 console=ttyS0,115200 cairn.boot=netboot";

async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for {what}"))
}

fn load_cert(options: &Options, identity: &config::Identity) -> anyhow::Result<Arc<ServerCert>> {
    // One that is there and cannot be read was damaged: whoever looks after this machine is to know.
    for name in ["tls.crt", "tls.key"] {
        let path = options.dir.file(name);
        if path.exists() {
            tls::check_pem(name, &dir::read(&path).unwrap_or_default()).with_context(|| {
                format!(
                    "{} is damaged: look at the disk; remove tls.crt and tls.key to have them made anew",
                    path.display()
                )
            })?;
        }
    }
    renew_if_old(options, identity)?;
    let read = |name| dir::read(&options.dir.file(name));
    let pair =
        || -> anyhow::Result<ServerCert> { Ok(ServerCert::load(&read("tls.crt")?, &read("tls.key")?)?) };
    let cert = pair().or_else(|error| {
        // Key and certificate are two files: a crash between them leaves a pair that does not match.
        tracing::warn!(%error, "the server certificate is made anew");
        config::renew_server(&options.dir, &identity.ca, &identity.settings, options.clock.now())?;
        pair()
    })?;
    Ok(Arc::new(cert))
}

fn renew_if_old(options: &Options, identity: &config::Identity) -> anyhow::Result<bool> {
    let until = tls::valid_until(&options.dir.file("tls.crt")).unwrap_or(0);
    let old = until < options.clock.now() + pki::SERVER_LIFE / 3;
    if old {
        config::renew_server(&options.dir, &identity.ca, &identity.settings, options.clock.now())?;
        tracing::info!("the server certificate was renewed");
    }
    Ok(old)
}

/// Runs the controller until `stop` turns true; `ready` is called with the bound address once it listens.
///
/// # Errors
/// What kept it from starting.
pub async fn run(
    options: Options,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let identity = config::load(&options.dir)?;
    let _held = config::lock(&options.dir)?;
    let now = options.clock.now();
    anyhow::ensure!(
        now >= identity.ca.not_before(),
        "this machine's clock is before the controller's CA was made: set the clock, nodes will believe it"
    );
    options.dir.ensure_repo()?;
    let left = options.dir.clear_incoming()?;
    if left > 0 {
        tracing::info!(left, "unfinished uploads were removed");
    }
    let online = options.online_keys.as_deref().map(OnlineKeys::load).transpose()?;
    let store = Store::open(&options.dir.database())?;
    let cert = load_cert(&options, &identity)?;
    let tls_config = tls::server_config(&identity.ca.pem, cert.clone(), options.clock)?;
    let trust_domain: Arc<str> = identity.settings.trust_domain.as_str().into();
    let app = Arc::new(App::new(
        options.dir.clone(),
        identity,
        store,
        options.clock,
        options.node_life,
        stop.clone(),
    ));
    app.reload_revoked().await?;
    if let Err(error) = app.reload_releases().await {
        // Nodes keep what they have; the operator publishes again.
        tracing::error!(error, "the release metadata cannot be read");
    }
    let listener = bind("the API", options.listen).await?;
    let address = listener.local_addr()?;
    let mut tasks = tokio::task::JoinSet::new();
    let serve = |listener, transport, router| {
        server::serve(listener, transport, router, options.patience, stop.clone(), GRACE)
    };
    if let Some((address, dir)) = &options.boot {
        let listener = bind("the boot service", *address).await?;
        tracing::info!(address = %listener.local_addr()?, "boot service");
        let service = BootService { app: app.clone(), cmdline: cmdline(&options, dir), dir: dir.clone() };
        tasks.spawn(serve(listener, Transport::Plain, http::boot::router(service)));
    }
    if let Some(address) = options.metrics {
        let listener = bind("metrics", address).await?;
        tracing::info!(address = %listener.local_addr()?, "metrics");
        tasks.spawn(serve(listener, Transport::Plain, metrics_router(app.clone())));
    }
    let refusing = app.clone();
    let transport = Transport::Tls {
        acceptor: TlsAcceptor::from(Arc::new(tls_config)),
        trust_domain,
        on_refusal: Arc::new(move |address, code, line| {
            let app = refusing.clone();
            tokio::spawn(async move { app.refused(code, "", address, &line).await });
        }),
    };
    tasks.spawn(serve(listener, transport, http::router(app.clone())));
    tokio::spawn(keep_house(app.clone(), options.clone(), cert));
    if let Some(keys) = online {
        tokio::spawn(online::keep_fresh(app.clone(), Arc::new(keys)));
    }
    ready(address);
    while tasks.join_next().await.is_some() {}
    let store = app.store.clone();
    tokio::task::spawn_blocking(move || store.close()).await?;
    tracing::info!("stopped");
    Ok(())
}

fn cmdline(options: &Options, dir: &std::path::Path) -> String {
    let own = || std::fs::read_to_string(dir.join("cmdline")).ok().map(|text| text.trim().to_owned());
    options.boot_cmdline.clone().or_else(own).unwrap_or_else(|| DEFAULT_CMDLINE.to_owned())
}

fn metrics_router(app: Arc<App>) -> Router {
    let text = async |axum::extract::State(app): axum::extract::State<Arc<App>>| {
        let sites = app.store.read(plans::list).await.map_err(http::problem::Failure::from)?;
        app.metrics.sites(&sites);
        let kind = [(axum::http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
        Ok::<_, http::problem::Failure>((kind, app.metrics.text()))
    };
    Router::new().route("/metrics", axum::routing::get(text)).with_state(app)
}

/// What has to be done from time to time.
async fn keep_house(app: Arc<App>, options: Options, cert: Arc<ServerCert>) {
    let mut stop = app.stop.clone();
    let (mut lost, mut revoked, mut own) = (
        tokio::time::interval(LOST_EVERY),
        tokio::time::interval(REVOKED_EVERY),
        tokio::time::interval(CERT_EVERY),
    );
    loop {
        tokio::select! {
            () = server::stopped(&mut stop) => return,
            _ = lost.tick() => find_lost(&app).await,
            _ = revoked.tick() => if let Err(error) = app.reload_revoked().await {
                tracing::error!(%error, "cannot read the revoked certificates");
            },
            _ = own.tick() => look_at_cert(&app, &options, &cert).await,
        }
    }
}

async fn find_lost(app: &App) {
    let (now, started) = (app.clock.now(), app.started);
    let marked = match app.store.read(move |tx| nodes::silent(tx, now, started)).await {
        Ok(silent) if silent.is_empty() => return,
        Ok(silent) => app.store.write(move |tx| nodes::mark_lost(tx, &silent, now, started)).await,
        Err(error) => Err(error),
    };
    match marked {
        Ok(views) => {
            for view in views {
                tracing::warn!(
                    site = view.site,
                    node = view.node,
                    "a node is lost: no heartbeat for three intervals"
                );
                app.announce(view);
            }
        }
        Err(error) => tracing::error!(%error, "cannot look for lost nodes"),
    }
}

async fn look_at_cert(app: &App, options: &Options, cert: &ServerCert) {
    let renewed = renew_if_old(options, &app.identity).and_then(|renewed| {
        if renewed {
            let read = |name| dir::read(&options.dir.file(name));
            cert.replace(&read("tls.crt")?, &read("tls.key")?)?;
        }
        Ok(())
    });
    if let Err(error) = renewed {
        tracing::error!(%error, "cannot renew the server certificate");
    }
    let now = app.clock.now();
    if let Err(error) = app.store.write(move |tx| certs::prune(tx, now)).await {
        tracing::error!(%error, "cannot forget old certificates");
    }
}
