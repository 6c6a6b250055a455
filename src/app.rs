//! The composition root: builds a server from a [`Config`], and runs it. The binary, the tests and the benches all use
//! it.

#![warn(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::routes::{AliasOf, DataEndpoint};
use crate::config::{Config, ListenAddress, Route, this_host, this_program};
use crate::deploy::{Deployer, Fleet, Journal};
use crate::error::{Result, SetupError};
use crate::feedback::{Feedback, Ledger, OutcomeLog};
use crate::http::{
    self, AccessLog, ApiKeys, BoundAddresses, ConnectionThreads, ConnectionTimeouts, HttpState, Listener,
    ListenerLimits, Tls,
};
use crate::machine;
use crate::machine::open_files_limit;
use crate::model::isolated::IsolatedEngine;
use crate::model::onnx::OnnxRuntime;
use crate::model::{Engine, InlineSlots, OnnxModel};
use crate::monitor::Monitor;
use crate::pipeline::Stages;
use crate::prediction_log::PredictionLog;
use crate::registry::{Catalog, Loader, RunLimit, Trial};
use crate::repository::{self, LoadCache};
use crate::rollout::{RolloutStore, Rollouts};
use crate::state::{self, State};
use crate::telemetry::Tracer;

/// Number of threads of the admin listener. More than one, so that a long response does not delay health checks.
const ADMIN_THREADS: usize = 2;

/// Time for the threads that serve connections to end.
const TIMEOUT_OF_THREADS: Duration = Duration::from_secs(1);

/// A server with loaded and warm models, not yet bound to addresses.
#[derive(Debug)]
pub struct App {
    config: Config,
    state: Arc<HttpState>,
    data_tls: Option<Tls>,
    admin_tls: Option<Tls>,
    /// The threads that serve the connections of the data listener.
    threads: Arc<ConnectionThreads>,
}

/// Dependencies of a server besides its configuration.
#[derive(Debug)]
pub struct Dependencies {
    /// The engine that loads and runs models.
    pub engine: Arc<dyn Engine>,
    /// The engine that loads and runs models in processes of their own, if there is one.
    pub isolated_engine: Option<Arc<dyn Engine>>,
    /// The kinds of stages that a `model.toml` can name.
    pub stages: Stages,
    /// The trial of each version in another process, before the server loads it; `None` if trials are off.
    pub trial: Option<Trial>,
    /// The journal of deployments.
    pub journal: Arc<dyn Journal>,
    /// The ledger of accepted feedback.
    pub ledger: Arc<dyn Ledger>,
    /// The servers that share the journal and the ledger.
    pub fleet: Arc<dyn Fleet>,
    /// The rollouts.
    pub rollouts: Arc<dyn RolloutStore>,
}

/// Returns the trial of versions, which runs this program in another process; `None` if `loading.trial` is off.
pub fn trial(config: &Config, runtime: &OnnxRuntime) -> Result<Option<Trial>, SetupError> {
    if !config.loading.trial {
        return Ok(None);
    }
    Ok(Some(Trial {
        program: this_program().map_err(SetupError::internal)?,
        libraries: runtime.libraries(),
        memory: config.loading.trial_memory(),
        timeout: config.loading.trial_timeout(),
        cache: None,
    }))
}

/// Returns the load cache of a server; `None` if it is off or cannot be used.
fn load_cache(config: &Config, trial: &Trial) -> Option<Arc<LoadCache>> {
    let (folder, max_bytes) = config.loading.cache(&config.state)?;
    LoadCache::open(&folder, max_bytes, &trial.libraries, &trial.program).map(Arc::new)
}

/// Returns the engine that runs models in processes of their own, with this program.
pub fn isolated_engine(runtime: &OnnxRuntime) -> Result<Option<Arc<dyn Engine>>, SetupError> {
    let program = this_program().map_err(SetupError::internal)?;
    let (libraries, version) = (runtime.libraries(), runtime.version().to_owned());
    Ok(Some(Arc::new(IsolatedEngine { program, libraries, version })))
}

/// Checks that the paths that the configuration adds are not those of other endpoints.
fn check_routes(config: &Config) -> Result<(), SetupError> {
    let routes = [
        ("http.predict_route", &config.http.predict_route, AliasOf::Predict),
        ("http.health_route", &config.http.health_route, AliasOf::Ready),
    ];
    for (key, route, alias) in routes {
        let Some(path) = route.as_ref().map(Route::path) else { continue };
        let wrong = |problem: String| SetupError::Config(format!("{key}: {problem}"));
        let below = config.http.path_prefix.as_ref().and_then(|prefix| prefix.below(path));
        let is_new = DataEndpoint::is_new(below.unwrap_or(path), alias).map_err(wrong)?;
        if is_new && below.is_some() {
            return Err(wrong(format!("{path} is below http.path_prefix, where nothing can be added; choose another")));
        }
    }
    Ok(())
}

/// The addresses of a server, bound so that no other process can take them. Connections are refused until the server
/// listens.
#[derive(Debug)]
pub struct Addresses {
    data: BoundAddresses,
    admin: BoundAddresses,
}

/// A server that listens: clients can connect, and the kernel queues their connections.
#[derive(Debug)]
pub struct BoundApp {
    app: App,
    data: Listener,
    admin: Listener,
}

/// The reason why a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Requested by an orchestrator. Serving goes on for the deregistration delay, so that load balancers notice.
    Deregister,
    /// Requested by a person. The server stops without the deregistration delay.
    AtOnce,
}

impl App {
    /// Builds a server: loads ONNX Runtime and the models of the repository. `stages` are the kinds of stages that a
    /// `model.toml` can name. The trial of versions runs this program in another process, so the `main` of the program
    /// has to be [`crate::cli::main_with`], or `loading.trial` has to be off.
    pub async fn build(config: Config, stages: Stages) -> Result<App, SetupError> {
        let runtime = OnnxRuntime::configured(&config)?;
        let trial = trial(&config, &runtime)?.map(|trial| Trial { cache: load_cache(&config, &trial), ..trial });
        let State { journal, ledger, fleet, rollouts } = state::open(&config.state, config.feedback.remembered).await?;
        let isolated_engine = isolated_engine(&runtime)?;
        let engine = Arc::new(runtime);
        let parts = Dependencies { engine, isolated_engine, stages, trial, journal, ledger, fleet, rollouts };
        App::build_with(config, parts).await
    }

    /// Builds a server like [`App::build`], but from these dependencies.
    pub async fn build_with(config: Config, parts: Dependencies) -> Result<App, SetupError> {
        check_routes(&config)?;
        let Dependencies { engine, isolated_engine, stages, trial, journal, ledger, fleet, rollouts } = parts;
        let monitor = Arc::new(Monitor::new(engine.version(), config.monitoring.windows()));
        let api_keys = ApiKeys::load(&config.http, monitor.server())?;
        let tls = |config, listener| Tls::load(config, listener, || monitor.server().record_tls(listener));
        let (data_tls, admin_tls) = (tls(&config.http.tls, "http")?, tls(&config.admin.tls, "admin")?);
        http::check_path_prefix(&config.http)?;
        let feedback = Feedback::new(&config.feedback, ledger).await?;
        // A folder that cannot be used is reported before anything is loaded.
        let prediction_log = PredictionLog::start(&config.prediction_log, feedback.signer().clone(), monitor.server())?;
        let outcome_log = prediction_log.clone().map(|log| log as Arc<dyn OutcomeLog>);
        let feedback = Arc::new(feedback.with_log(outcome_log));
        // Started before versions are loaded, which is refused if too few threads are left.
        let threads = Arc::new(ConnectionThreads::start(config.http.threads())?);
        let inline_slots = InlineSlots::for_threads(config.http.threads())?;
        let (run_limit, load_limit) = (RunLimit(config.loading.trial_timeout()), config.loading.timeout());
        let loader = Loader {
            store: repository::store(&config.repository, &config.state)?,
            trusted_keys: config.repository.trusted_keys.clone().into(),
            engine,
            isolated_engine,
            stages,
            monitor: Arc::clone(&monitor),
            inline_slots,
            trial,
            run_limit,
            load_limit,
        };
        let catalog = Arc::new(Catalog::default());
        let deployer = Deployer::start(loader, journal, fleet, Arc::clone(&catalog), config.repository.clone()).await?;
        let access_log = AccessLog::start(&config.log, monitor.server())?;
        let tracer = Tracer::start(&config.tracing, monitor.server())?;
        let rollouts = Arc::new(Rollouts::new(deployer, catalog, rollouts, Arc::clone(&monitor)));
        let state = HttpState::new(&config, api_keys, rollouts, feedback, monitor, access_log);
        let state = Arc::new(state.with_prediction_log(prediction_log).with_tracer(tracer));
        Ok(App { config, state, data_tls, admin_tls, threads })
    }

    /// Returns the served models.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.state.catalog
    }

    /// Returns the deployer, which owns the loaded versions and the deployments.
    pub fn deployer(&self) -> &Arc<Deployer> {
        &self.state.deployer
    }

    /// Binds the configured addresses and listens.
    pub async fn bind(self) -> Result<BoundApp, SetupError> {
        let addresses = Addresses::bind(&self.config)?;
        self.listen(addresses)
    }

    /// Listens at these addresses. Must be called within a runtime.
    pub fn listen(self, addresses: Addresses) -> Result<BoundApp, SetupError> {
        let Addresses { data, admin } = addresses;
        let data = Listener::listen(data, self.data_tls.clone())?.on_threads(Arc::clone(&self.threads));
        let admin = Listener::listen(admin, self.admin_tls.clone())?;
        Ok(BoundApp { app: self, data, admin })
    }
}

impl Addresses {
    /// Binds all addresses. Called before anything is loaded, so that a port in use is reported at once.
    pub fn bind(config: &Config) -> Result<Addresses, SetupError> {
        let Config { http, admin, .. } = config;
        Ok(Addresses {
            data: BoundAddresses::bind(&http.listen, http.unix_socket_mode, "http.listen")?,
            admin: BoundAddresses::bind(&admin.listen, admin.unix_socket_mode, "admin.listen")?,
        })
    }
}

/// The threads of the admin listener. They are separate, so that operators get responses even when the threads of the
/// data listener are busy.
#[derive(Debug)]
struct AdminThreads {
    threads: Handle,
    runtime: Option<Runtime>,
}

impl AdminThreads {
    fn start() -> Result<AdminThreads, SetupError> {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(ADMIN_THREADS).thread_name("admin").enable_all().build();
        let runtime = runtime.map_err(SetupError::internal)?;
        Ok(AdminThreads { threads: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for AdminThreads {
    fn drop(&mut self) {
        // A thread of a runtime must not wait for the end of another runtime, as a plain drop would.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl BoundApp {
    /// Returns the bound addresses of the data listener.
    pub fn data_addresses(&self) -> &[ListenAddress] {
        self.data.addresses()
    }

    /// Returns the bound addresses of the admin listener.
    pub fn admin_addresses(&self) -> &[ListenAddress] {
        self.admin.addresses()
    }

    /// Serves until the first `stop`, then shuts down in order: not ready → the deregistration delay, still serving →
    /// no new connections → requests in flight finish within the grace period → the workers end. A second `stop` ends
    /// the delay early, and a third one the grace period.
    pub async fn run(self, mut stop: impl StopSignal) -> Result<(), SetupError> {
        let BoundApp { app: App { config, state, data_tls, admin_tls, threads }, data, admin } = self;
        let (admin_threads, name) = (AdminThreads::start()?, replica_name(admin.addresses()));
        state.readiness.set(true);
        let mut listeners = Listeners::serve(&config, &state, data, admin, &admin_threads);
        let following = follow(&state, &admin_threads, name);
        let mut watching: Vec<JoinHandle<()>> =
            [data_tls, admin_tls].into_iter().flatten().map(|tls| tokio::spawn(tls.watch())).collect();
        watching.extend(state.api_keys.clone().map(|keys| tokio::spawn(keys.watch())));
        let sliding = tokio::spawn(slide_windows(Arc::clone(&state.monitor)));
        let reason = tokio::select! {
            reason = stop.next() => Ok(reason),
            error = listeners.ended() => Err(error),
        };
        state.readiness.set(false);
        following.iter().for_each(JoinHandle::abort);
        // Not waited for: the database may be gone, and the others notice anyway.
        tokio::spawn(Arc::clone(&state.deployer).leave_fleet());
        sliding.abort();
        watching.iter().for_each(JoinHandle::abort);
        if let Ok(reason) = reason {
            await_deregistration(reason, &config, &mut stop).await;
            let grace_ms = config.shutdown.grace_period().as_millis() as u64;
            tracing::info!(grace_ms, "no new connections; finishing the requests in flight");
            // Requests that wait for a load get an error now. Otherwise they would keep their connections open for the
            // whole grace period.
            state.deployer.stop();
            listeners.close();
            let drained = tokio::select! {
                drained = listeners.drained() => drained,
                _ = stop.next() => false,
            };
            if !drained {
                tracing::warn!("the grace period is over; connections that are still open are dropped");
            }
        }
        retire(&state.catalog).await;
        // After the runs: what goes on after a response, such as feedback, has had its time.
        if !threads.end(TIMEOUT_OF_THREADS).await {
            tracing::warn!("a thread that serves connections could not be ended in time; the process exits anyway");
        }
        state.feedback.flush(&state.monitor).await;
        if let Some(prediction_log) = &state.prediction_log {
            prediction_log.close().await;
        }
        if let Some(tracer) = &state.tracer {
            tracer.close().await;
        }
        if let Some(access_log) = &state.access_log {
            access_log.flush().await;
        }
        reason?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Starts what follows the repository, the journal, the fleet and the rollouts. On the threads of operators, because a change
/// waits until these have finished theirs.
fn follow(state: &Arc<HttpState>, admin_threads: &AdminThreads, name: String) -> [JoinHandle<()>; 4] {
    let deployer = || Arc::clone(&state.deployer);
    let threads = &admin_threads.threads;
    [
        threads.spawn(deployer().poll()),
        threads.spawn(deployer().follow()),
        threads.spawn(deployer().report_to_fleet(name)),
        threads.spawn(Arc::clone(&state.rollouts).run()),
    ]
}

/// Returns the name of this server in its fleet: the machine, and the port of the admin listener.
fn replica_name(admin: &[ListenAddress]) -> String {
    let host = this_host().unwrap_or_else(|| "localhost".to_owned());
    let port = admin.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    });
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

/// The tasks of the data listener and the admin listener, while they serve.
struct Listeners {
    data: JoinHandle<bool>,
    admin: JoinHandle<bool>,
    close: watch::Sender<bool>,
}

impl Listeners {
    /// Starts to serve on both listeners.
    fn serve(
        config: &Config,
        state: &Arc<HttpState>,
        data: Listener,
        admin: Listener,
        admin_threads: &AdminThreads,
    ) -> Listeners {
        let timeouts = ConnectionTimeouts {
            first_request: config.http.first_request_timeout(),
            idle: config.http.header_timeout(),
            write: config.http.write_timeout(),
        };
        let (data_places, admin_places) =
            http::places(config.http.connection_limit, open_files_limit(), config.http.threads());
        if data_places.regular < config.http.connection_limit {
            tracing::warn!(
                connections = data_places.regular,
                "http.connection_limit is too high for the limit of open files of this process; raise `ulimit -n` \
                 (LimitNOFILE), or lower http.connection_limit"
            );
        }
        let (close, closing) = watch::channel(false);
        let grace = config.shutdown.grace_period();
        let data = tokio::spawn(data.serve(
            http::data(state),
            ListenerLimits { places: data_places, timeouts },
            Arc::clone(state.monitor.server()),
            closing.clone(),
            grace,
        ));
        // The admin listener has its own recorder, so the connections of operators are not counted among those of
        // clients.
        let admin = admin_threads.threads.spawn(admin.serve(
            http::admin(state),
            ListenerLimits { places: admin_places, timeouts },
            Arc::default(),
            closing,
            grace,
        ));
        Listeners { data, admin, close }
    }

    /// Waits until a listener ends unexpectedly, and returns an error, because the process would go on without serving.
    async fn ended(&mut self) -> SetupError {
        tokio::select! {
            ended = &mut self.data => SetupError::internal(format_args!("the data listener ended: {ended:?}")),
            ended = &mut self.admin => SetupError::internal(format_args!("the admin listener ended: {ended:?}")),
        }
    }

    /// Tells both listeners to accept no new connections.
    fn close(&self) {
        // Both listeners hold a receiver until they have ended.
        let _ = self.close.send(true);
    }

    /// Waits for the open connections. Returns false if some had to be dropped.
    async fn drained(self) -> bool {
        matches!(tokio::join!(self.data, self.admin), (Ok(true), Ok(true)))
    }
}

/// Keeps serving while reporting not ready, until load balancers have noticed, or until the next request to stop.
async fn await_deregistration(reason: Stop, config: &Config, stop: &mut impl StopSignal) {
    let delay = match reason {
        Stop::Deregister => config.shutdown.deregistration_delay(),
        Stop::AtOnce => Duration::ZERO,
    };
    if delay.is_zero() {
        return;
    }
    tracing::info!(delay_ms = delay.as_millis() as u64, "no longer ready; still serving until load balancers notice");
    // Ends after the delay or at the next request to stop, whichever comes first.
    let _ = tokio::time::timeout(delay, stop.next()).await;
}

/// Slides the monitor's windows while the server serves.
async fn slide_windows(monitor: Arc<Monitor>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        every_second.tick().await;
        let monitor = Arc::clone(&monitor);
        let slide = move || {
            machine::give_way();
            // Runs at a low priority, because some ticks copy all counters.
            monitor.tick();
        };
        let slid = tokio::task::spawn_blocking(slide).await;
        if let Err(error) = slid {
            tracing::error!(%error, "the windows of the metrics could not be moved on");
        }
    }
}

/// Gives the workers of all models a moment to finish their batches, then cancels the remaining runs: nobody waits for
/// their responses any more, and no run may be in progress when the process exits.
async fn retire(catalog: &Catalog) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let snapshot = catalog.snapshot();
    let models = || snapshot.versions().filter_map(|version| Some(&version.pipeline()?.model));
    let all_ended = async || {
        while !models().all(OnnxModel::is_retired) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    models().for_each(OnnxModel::retire);
    if tokio::time::timeout(TIMEOUT, all_ended()).await.is_err() {
        models().for_each(OnnxModel::interrupt);
        if tokio::time::timeout(TIMEOUT, all_ended()).await.is_err() {
            tracing::warn!("a run could not be cancelled in time; the process exits anyway");
        }
    }
}

/// Source of requests to stop the server: the signals of the process, or a test.
pub trait StopSignal: Send {
    /// Waits for the next request to stop.
    fn next(&mut self) -> impl Future<Output = Stop> + Send;
}

impl StopSignal for tokio::sync::mpsc::Receiver<Stop> {
    async fn next(&mut self) -> Stop {
        match self.recv().await {
            Some(stop) => stop,
            // Without a sender, no further request can come.
            None => std::future::pending().await,
        }
    }
}
