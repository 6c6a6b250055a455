//! The protocols beside each other: an image as JSON, as raw bytes over REST, and over gRPC, also beside the floor program
//! (`benches/floor.rs`), which takes raw bytes; and a small model over gRPC beside the floor program's REST.
//!
//!     make bench-protocols
//!
//! Images are sent by the load generator of this file: connections that send one request after the other, HTTP/1.1 for
//! REST, HTTP/2 for gRPC. Digits are sent by h2load of nghttp2 (Debian's package `nghttp2-client`), which takes less of the
//! cores that it shares with the servers; without it, by the one of this file. Pairs are measured alternating, and ratios
//! are taken within a round. `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the duration.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use leeway::config::{ModelConfig, SessionConfig};
use leeway::error::SetupError;
use leeway::grpc::proto::inference::ModelInferRequest;
use leeway::grpc::proto::inference::model_infer_request::InferInputTensor;
use leeway::grpc::{MODEL_INFER, encode};
use leeway::model::onnx::OnnxRuntime;
use leeway::model::{Engine, ModelBytes, ModelSource};
use leeway::tensor::{Data, Tensor, Tensors};
use leeway_testkit::{
    Floor, PLAIN, Repository, Server, Spread, held_out, in_turn, median, number_from, quantile, shipped, test_config,
    test_model, workshop,
};
use serde_json::json;
use tokio::net::TcpStream;

/// A request that is sent over and over.
struct Call {
    address: SocketAddr,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    version: hyper::Version,
}

/// Results of one run of the load generator; times in microseconds.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Call {
    fn rest(address: SocketAddr, path: &str, body: Vec<u8>) -> Call {
        let headers = vec![("content-type", "application/json".to_owned())];
        Call { address, path: path.to_owned(), headers, body: body.into(), version: hyper::Version::HTTP_11 }
    }

    /// A request that is nothing but raw bytes.
    fn bytes(address: SocketAddr, path: &str, data: &Data) -> Call {
        let mut raw = Vec::new();
        data.write_raw(&mut raw);
        let headers = vec![("content-type", "application/octet-stream".to_owned())];
        Call { address, path: path.to_owned(), headers, body: raw.into(), version: hyper::Version::HTTP_11 }
    }

    /// A request with raw bytes for its only input.
    fn raw(address: SocketAddr, model: &str, name: &str, shape: &[usize], data: &Data) -> Call {
        let mut raw = Vec::new();
        data.write_raw(&mut raw);
        let parameters = json!({ "binary_data_size": raw.len() });
        let input = json!({ "name": name, "shape": shape, "datatype": "FP32", "parameters": parameters });
        let json = json!({ "inputs": [input], "parameters": { "binary_data_output": true } }).to_string();
        let headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("inference-header-content-length", json.len().to_string()),
        ];
        let body = [json.into_bytes(), raw].concat().into();
        Call { address, path: format!("/v2/models/{model}/infer"), headers, body, version: hyper::Version::HTTP_11 }
    }

    fn grpc(address: SocketAddr, model: &str, name: &str, shape: &[usize], data: &Data) -> Call {
        let mut raw = Vec::new();
        data.write_raw(&mut raw);
        let input = InferInputTensor {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.iter().map(|length| *length as i64).collect(),
            ..InferInputTensor::default()
        };
        let request = ModelInferRequest {
            model_name: model.to_owned(),
            inputs: vec![input],
            raw_input_contents: vec![raw.into()],
            ..ModelInferRequest::default()
        };
        let headers = vec![("content-type", "application/grpc".to_owned()), ("te", "trailers".to_owned())];
        let body = encode(&request).into();
        Call { address, path: MODEL_INFER.to_owned(), headers, body, version: hyper::Version::HTTP_2 }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let uri = match self.version {
            hyper::Version::HTTP_2 => format!("http://{}{}", self.address, self.path),
            _ => self.path.clone(),
        };
        let mut request = Request::post(uri);
        if self.version != hyper::Version::HTTP_2 {
            request = request.header("host", "leeway");
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(self.body.clone())).unwrap()
    }

    /// Sends the request over one connection until the deadline, and returns the duration of each.
    async fn repeat(&self, until: Instant) -> Vec<f64> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        let mut took = Vec::new();
        macro_rules! drive {
            ($sender:expr, $connection:expr) => {{
                let (mut sender, connection) = ($sender, $connection);
                tokio::spawn(connection);
                while Instant::now() < until {
                    let begin = Instant::now();
                    sender.ready().await.unwrap();
                    finished(sender.send_request(self.request()).await.unwrap()).await;
                    took.push(begin.elapsed().as_secs_f64() * 1e6);
                }
            }};
        }
        if self.version == hyper::Version::HTTP_2 {
            let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            http.initial_stream_window_size(4 << 20).initial_connection_window_size(4 << 20);
            let (sender, connection) = http.handshake(io).await.unwrap();
            drive!(sender, connection);
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            drive!(sender, connection);
        }
        took
    }
}

/// Reads a whole response, and checks that it is an answer.
async fn finished(response: hyper::Response<Incoming>) {
    let status = response.status();
    let grpc = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.unwrap();
    let grpc = grpc.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()));
    let is_good = status == 200 && grpc.is_none_or(|grpc| grpc == "0");
    assert!(is_good, "{status}: {:?}", body.to_bytes());
}

fn address_of(floor: &Floor) -> SocketAddr {
    floor.url("").trim_start_matches("http://").parse().unwrap()
}

/// Sends a request over several connections for a time.
fn load(call: &Arc<Call>, connections: usize, time: Duration) -> Measured {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let until = Instant::now() + time;
    let took = threads.block_on(async {
        let all: Vec<_> = (0..connections)
            .map(|_| {
                let call = Arc::clone(call);
                tokio::spawn(async move { call.repeat(until).await })
            })
            .collect();
        let mut took = Vec::new();
        for one in all {
            took.extend(one.await.unwrap());
        }
        took
    });
    let per_second = took.len() as f64 / time.as_secs_f64();
    Measured { per_second, p50: median(took.iter().copied()), p99: quantile(took, 0.99) }
}

/// Sends a request over several connections for a time, by h2load. It does not look into answers: `load` has to be called
/// before.
fn h2load(call: &Call, connections: usize, time: Duration) -> Measured {
    let (body, log) = (workshop().join("h2load.body"), workshop().join("h2load.log"));
    std::fs::write(&body, &call.body).unwrap();
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-m", "1", "-c", &connections.to_string(), "-D", &time.as_secs().to_string()]);
    command.arg("-d").arg(body).arg("--log-file").arg(&log);
    if call.version == hyper::Version::HTTP_11 {
        command.arg("--h1");
    }
    for (name, value) in &call.headers {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    let output = command.arg(format!("http://{}{}", call.address, call.path)).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
    // Each line has the start of a request, its status, and its duration in microseconds.
    let log = std::fs::read_to_string(log).unwrap();
    let took: Vec<f64> = log.lines().map(|line| line.split('\t').nth(2).unwrap().parse().unwrap()).collect();
    let per_second = took.len() as f64 / time.as_secs_f64();
    Measured { per_second, p50: median(took.iter().copied()), p99: quantile(took, 0.99) }
}

/// A load generator.
type Generator = fn(&Arc<Call>, usize, Duration) -> Measured;

/// Returns h2load if it is installed, or else the load generator of this file.
fn lean_generator() -> Generator {
    match Command::new("h2load").arg("--version").output() {
        Ok(version) => {
            println!("sent by {}", String::from_utf8_lossy(&version.stdout).trim());
            |call, connections, time| h2load(call, connections, time)
        }
        Err(_) => {
            println!("sent by the load generator of this bench: h2load is not installed");
            load
        }
    }
}

/// Measures two requests in turn, prints both, and returns the ratio of the requests per second of the second to the first.
fn compare(
    generator: Generator,
    (rounds, seconds): (usize, u64),
    connections: usize,
    (one, other): (&Arc<Call>, &Arc<Call>),
    names: [&str; 2],
) {
    let time = Duration::from_secs(seconds);
    // Checks the answers, too.
    let _ = (load(one, connections, Duration::from_secs(1)), load(other, connections, Duration::from_secs(1)));
    let measured = in_turn(rounds, || generator(one, connections, time), || generator(other, connections, time));
    for (index, name) in names.iter().enumerate() {
        let of = |field: fn(&Measured) -> f64| {
            median(measured.iter().map(|(one, other)| field(if index == 0 { one } else { other })))
        };
        println!(
            "{connections:>5} | {name:<24} {:>9.0} req/s {:>9.0} µs P50 {:>9.0} µs P99",
            of(|m| m.per_second),
            of(|m| m.p50),
            of(|m| m.p99)
        );
    }
    let ratio = Spread::of(measured.iter().map(|(one, other)| other.per_second / one.per_second));
    println!("{:>5} | {} / {}: {ratio}\n", "", names[1], names[0]);
}

#[derive(Debug)]
struct MeanOfImage;

impl ModelSource for MeanOfImage {
    fn read(&self) -> Result<Arc<ModelBytes>, SetupError> {
        let model = std::fs::read(test_model("mean_of_image")).unwrap().into();
        Ok(Arc::new(ModelBytes { model, external: Vec::new() }))
    }
}

/// Measures the runs of the model of images alone, in microseconds, with the settings that the server has.
fn runs_alone(config: &SessionConfig, inputs: &Tensors) -> f64 {
    let runtime = OnnxRuntime::load(&test_config(&shipped("digits", 2)).library_candidates()).unwrap();
    let loaded = runtime.load(Arc::new(MeanOfImage), config).unwrap();
    let mut session = loaded.open().unwrap();
    let mut run = || {
        let begin = Instant::now();
        session.run(inputs).unwrap();
        begin.elapsed().as_secs_f64() * 1e6
    };
    for _ in 0..200 {
        run();
    }
    median((0..2_000).map(|_| run()))
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    let shape = [1, 3, 224, 224];
    let pixels: Vec<f32> = (0..3 * 224 * 224).map(|at| (at % 255) as f32 / 255.0).collect();
    let image = Data::F32(pixels.clone());
    // A second thread would cost a run of microseconds more than it saves.
    let one_thread = format!("{PLAIN}intra_op_threads = 1\n");
    let repository = Repository::new().with("image", 1, "mean_of_image", &one_thread);
    let digits = repository.path().join("digits");
    leeway_testkit::copy_folder(&shipped("digits", 2), &digits.join("2"));
    std::fs::copy(leeway_testkit::checkout().join("models/digits/model.toml"), digits.join("model.toml")).unwrap();
    let leeway = Server::measured(repository.path(), &[("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")]);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores shared with the load generator; {rounds} rounds of {seconds} s, alternating; medians\n");

    println!("an image of 3 x 224 x 224 float32");
    let rows: Vec<&[f32]> = pixels.chunks(224).collect();
    let planes: Vec<&[&[f32]]> = rows.chunks(224).collect();
    let as_json = Arc::new(Call::rest(
        leeway.data,
        "/v1/models/image:predict",
        json!({ "instances": [planes] }).to_string().into_bytes(),
    ));
    let raw = Arc::new(Call::raw(leeway.data, "image", "x", &shape, &image));
    let grpc = Arc::new(Call::grpc(leeway.data, "image", "x", &shape, &image));
    let floor = Floor::start(&test_model("mean_of_image"));
    let of_floor = Arc::new(Call::bytes(address_of(&floor), "/raw", &image));
    for connections in [1, 4] {
        compare(
            load,
            (rounds, seconds),
            connections,
            (&of_floor, &raw),
            ["raw bytes to the floor", "raw bytes over REST"],
        );
        compare(load, (rounds, seconds), connections, (&as_json, &raw), ["JSON", "raw bytes over REST"]);
        compare(load, (rounds, seconds), connections, (&raw, &grpc), ["raw bytes over REST", "gRPC"]);
    }
    let inputs: Tensors = [("x".into(), Tensor::new(shape.to_vec(), image).unwrap())].into_iter().collect();
    let model_toml: ModelConfig = toml::from_str(&one_thread).unwrap();
    let alone = runs_alone(&model_toml.model, &inputs);
    for (name, call) in [("raw bytes to the floor", &of_floor), ("raw bytes over REST", &raw), ("gRPC", &grpc)] {
        let overheads = (0..rounds).map(|_| load(call, 1, Duration::from_secs(seconds)).p50 - alone);
        println!("overhead of {name} over the model's own run of {alone:.0} µs: {:.0} µs", Spread::of(overheads));
    }

    println!("\none digit, model digits version 2 (64-64-10 MLP)");
    let generator = lean_generator();
    let digit = held_out("digits")["instances"][0].clone();
    let floor = Floor::start(&shipped("digits", 2).join("model.onnx"));
    let of_floor =
        Arc::new(Call::rest(address_of(&floor), "/predict", json!({ "instances": [digit] }).to_string().into_bytes()));
    let pixels = digit.as_array().unwrap().iter().map(|pixel| pixel.as_f64().unwrap() as f32).collect();
    let grpc = Arc::new(Call::grpc(leeway.data, "digits", "pixels", &[1, 64], &Data::F32(pixels)));
    for connections in [16, 64] {
        compare(generator, (rounds, seconds), connections, (&of_floor, &grpc), ["the floor's REST", "gRPC"]);
    }
}
