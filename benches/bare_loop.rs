//! A bare loop of `Session::run` over one batch: the capacity of a model without a server. `benches/latency.rs`
//! compares Leeway with it.
//!
//!     bare_loop MODEL_FILE ONNXRUNTIME_LIBRARY arena|no-arena ROWS WIDTH THREADS SECONDS
//!
//! With `arena` the session has ONNX Runtime's default memory settings; with `no-arena` those of Leeway, which keep
//! less memory. Prints the rows per second and, on Linux, the memory of the process at the end (RSS, in bytes). With 0
//! seconds it runs the model once, as a server does before it is ready.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program for a bench")]

use std::time::{Duration, Instant};

use ort::ep;
use ort::session::Session;
use ort::value::TensorRef;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, library, arena, rows, width, threads, seconds] = &*arguments else {
        panic!("bare_loop MODEL_FILE ONNXRUNTIME_LIBRARY arena|no-arena ROWS WIDTH THREADS SECONDS")
    };
    let arena = match arena.as_str() {
        "arena" => true,
        "no-arena" => false,
        other => panic!("{other:?} is neither arena nor no-arena"),
    };
    let (rows, width): (usize, usize) = (rows.parse().unwrap(), width.parse().unwrap());
    let environment = ort::init_from(library).expect("the library").build().unwrap();
    let mut session = Session::builder(&environment)
        .unwrap()
        .with_intra_threads(threads.parse().unwrap())
        .unwrap()
        .with_intra_op_spinning(false)
        .unwrap()
        .with_memory_pattern(arena)
        .unwrap()
        .with_execution_providers([ep::CPU::default().with_arena_allocator(arena).build()])
        .unwrap()
        .commit_from_file(model)
        .unwrap();
    let input = vec![0.5f32; rows * width];
    let mut run = || {
        let input = TensorRef::from_array_view(([rows, width], &*input)).unwrap();
        session.run(ort::inputs![input]).unwrap();
    };
    run();
    let (begin, time) = (Instant::now(), Duration::from_secs_f64(seconds.parse().unwrap()));
    let mut runs = 0;
    while begin.elapsed() < time {
        run();
        runs += 1;
    }
    let per_second = (runs * rows) as f64 / begin.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    println!("{per_second} {}", resident.map_or(0, |kibibytes| 1024 * kibibytes.parse::<u64>().unwrap()));
}
