# `make help` lists the targets. OUT=folder sends what a target makes elsewhere.
PYTHON ?= python3
SEED   ?= 0
SEEDS  ?=

BIN := .venv/bin
# Let glibc keep the memory of large tensors between steps: a CPU step of the quickstart's CT-Net took 12 to 16 % less
# time in three pairs of runs (2 cores; no record kept). Huge pages for it took 3 to 18 % more off a step of the study's
# CT-Net in four pairs (2 cores, two at a time; no record kept). Other C libraries ignore these variables.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
# Print only what the notebook prints; a failed notebook still shows its error.
RUN := $(KEEP_MEMORY) $(BIN)/papermill --kernel python3 --no-progress-bar --log-level ERROR --stdout-file -
PAGE := $(BIN)/jupyter nbconvert --config docs/_nbconvert/config.py --log-level ERROR --to html
STRIP := --keep-id --extra-keys 'metadata.papermill metadata.widgets cell.metadata.papermill cell.metadata.execution'

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks,onnx,test,docs]'
	@mkdir -p .venv/etc/ipython && echo 'c.IPKernelApp.log_level = 50' > .venv/etc/ipython/ipython_kernel_config.py
	@touch $@

.PHONY: install
install: .venv/installed  ## install the pinned versions and the command ctlib into .venv

# Snakemake runs the Snakefile from an environment of its own, which does not import ctlib.
.venv-snakemake/installed: profiles/requirements.txt
	$(PYTHON) -m venv .venv-snakemake
	.venv-snakemake/bin/python -m pip install --quiet --requirement profiles/requirements.txt
	@touch $@

# The quickstart: two trainings side by side, each on one core, then the page about them.
.PHONY: study train-TSN train-CT-Net
study train-TSN train-CT-Net: OUT = results/quickstart
study: .venv/installed  ## train TSN and CT-Net on the built-in data; results go to results/quickstart
	@mkdir -p $(OUT)
	@$(BIN)/python -m ctlib arrow
	@$(MAKE) --no-print-directory -j2 train-TSN train-CT-Net OUT=$(OUT)
	@$(RUN) notebooks/quickstart.ipynb $(OUT)/quickstart.ipynb -r runs_dir $(OUT)
	@$(PAGE) --no-input --output-dir $(OUT) $(OUT)/quickstart.ipynb
	@echo "read $(OUT)/quickstart.html"

# TSN trains longer: six and nine epochs gave no more. Side by side the two take about as long.
train-TSN: MODEL = tsn_quickstart
train-TSN: EPOCHS = 5
train-CT-Net: MODEL = ctnet_quickstart
train-CT-Net: EPOCHS = 3
train-TSN train-CT-Net: train-%:
	@$(RUN) notebooks/train.ipynb $(OUT)/train_$*_seed$(SEED).ipynb -p name $* -p model $(MODEL) -p epochs $(EPOCHS) -p seed $(SEED) -r out_dir $(OUT) -p device cpu

# Targets that run one notebook. The executed notebook, its page and its files go to results/<notebook>.
ONE_NOTEBOOK := costs videos evaluate transfer report accuracy saliency pretrain rivals
costs:  ## count every cost that the paper publishes (2 minutes)
videos:  ## train and test a network on a folder of video clips, here synthetic ones (3 minutes)
evaluate:  ## test the quickstart's networks with more views and as an ensemble (1 minute)
transfer:  ## fine-tune a trained network on other data sets, here synthetic ones (4 minutes)
report:  ## compare the ablations' results with the paper (30 seconds)
accuracy:  ## plot accuracy against GFLOPs and time, published and measured (1 minute)
pretrain:  ## make the laptop backbone's weights of Still Shapes again (20 minutes)
rivals:  ## train the systems that the paper compares with, small, and look at what each can see (1 hour)
saliency:  ## show where each network looks, and measure whether the object is there (a minute after make ablations; else an estimated 30 to train five networks)

.PHONY: $(ONE_NOTEBOOK)
$(ONE_NOTEBOOK): NOTEBOOK = $@
videos: NOTEBOOK = your_own_videos
accuracy: NOTEBOOK = accuracy_vs_gflops
saliency: NOTEBOOK = saliency_tubes
report: HIDE = --no-input
$(ONE_NOTEBOOK): OUT = results/$(NOTEBOOK)
$(ONE_NOTEBOOK): %: .venv/installed
	@mkdir -p $(OUT)
	@$(RUN) notebooks/$(NOTEBOOK).ipynb $(OUT)/$(NOTEBOOK).ipynb -r out_dir $(OUT)
	@$(PAGE) $(HIDE) --output-dir $(OUT) $(OUT)/$(NOTEBOOK).ipynb
	@echo "read $(OUT)/$(NOTEBOOK).html"

.PHONY: ablations
ablations: OUT = results/runs
ablations: .venv/installed  ## do the next runs of the study's plan, two at a time (about 3.5 hours per seed; SEEDS="0 1" chooses); runs go to results/runs
	@$(KEEP_MEMORY) $(BIN)/python -m ctlib ablations $(OUT) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: teach html
teach: $(patsubst notebooks/learn/%,results/teaching/%,$(wildcard notebooks/learn/*.ipynb))  ## run the course's notebooks, if they or ctlib changed; copies go to results/teaching

results/teaching/%.ipynb: notebooks/learn/%.ipynb $(wildcard ctlib/*.py ctlib/*/*.py) | .venv/installed
	@mkdir -p results/lessons
	@echo "running $<"
	@$(RUN) $< results/lessons/$*.ipynb > /dev/null
	@$(BIN)/python .ci/publish.py $*

html: OUT = results/site
html: .venv/installed  ## build the site from the pages, the executed notebooks and the docstrings; to results/site
	@$(BIN)/sphinx-build -W --keep-going -E -q -c docs . $(OUT)
	@echo "read $(OUT)/index.html"

.PHONY: benchmark bench-saliency bench-explorers bench-loading bench-listing
benchmark: OUT = results/benchmark
benchmark: .venv/installed  ## time and memory of CT-Net, TSN, a plain CT-Net and others, timed in turn (12 minutes)
	@mkdir -p $(OUT)
	@$(BIN)/python benchmarks/speed.py --record $(OUT)/speed.json --figure $(OUT)/speed
	@$(KEEP_MEMORY) $(BIN)/python benchmarks/speed.py --sections ways training --record $(OUT)/speed_memory_kept.json
	@$(KEEP_MEMORY) $(BIN)/python benchmarks/epoch.py --record $(OUT)/epoch.json

# All that only a GPU can show. MINUTES are for the study, after about 7 for the tests and the benchmark.
.PHONY: gpu
gpu: MINUTES = 60
gpu: OUT = results/runs
gpu: .venv/installed  ## on a GPU: its tests, its benchmark (to results/benchmark/gpu.json), then MINUTES of the study's plan
	-$(BIN)/python -m pytest -q -m "gpu and not slow"
	@mkdir -p results/benchmark
	if nvidia-cuda-mps-control -d 2> /dev/null; then trap 'echo quit | nvidia-cuda-mps-control' EXIT; fi; \
	$(BIN)/python benchmarks/gpu.py --minutes 5 --record results/benchmark/gpu.json; \
	$(BIN)/python -m ctlib ablations $(OUT) --device cuda --side-by-side 18 --minutes $(MINUTES)

bench-saliency: .venv/installed  ## time of a Saliency Tube, relative to a forward pass
	@$(BIN)/python benchmarks/saliency.py

bench-explorers: .venv/installed  ## time from moving a slider of the course to its picture
	@$(BIN)/python benchmarks/explorers.py

bench-loading: .venv/installed  ## clips per second that one core loads, here and in other ways (2 minutes)
	@$(BIN)/python benchmarks/loading.py

bench-listing: .venv/installed  ## time and memory to list 240,000 videos (2 minutes)
	@$(BIN)/python benchmarks/listing.py

# Three processes on two cores, because some tests wait for others' processes.
.PHONY: test test-all lint format lab clean
test: .venv/installed .venv-snakemake/installed  ## all tests except the slow ones (at most 6 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --durations 15

# Two of them compare SlowFast and X3D with pytorchvideo, which is old. So it lies apart, with what it needs beside ours.
.venv/pytorchvideo: .venv/installed
	$(BIN)/python -m pip install -q --no-deps --constraint constraints.txt --target $@ pytorchvideo==0.1.5 \
		fvcore iopath networkx parameterized portalocker tabulate termcolor yacs

test-all: .venv/installed .venv-snakemake/installed .venv/pytorchvideo  ## all tests, the slow ones too
	PYTHONPATH=.venv/pytorchvideo $(BIN)/python -m pytest

lint: .venv/installed  ## check style (ruff), the order of imports (import-linter), and that notebooks hold no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb notebooks/learn/*.ipynb

format: .venv/installed  ## fix what `make lint` can fix by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb notebooks/learn/*.ipynb

# Copies, as JupyterLab writes into what it has opened. In a folder beside notebooks/, so that their links hold.
lab: .venv/installed  ## open JupyterLab on copies of the notebooks in lab/; delete a copy to get it anew
	@mkdir -p lab/learn
	@cd notebooks && for path in *.ipynb learn/*.ipynb; do [ -e "../lab/$$path" ] || cp "$$path" "../lab/$$path"; done
	$(BIN)/jupyter lab --notebook-dir=. lab/quickstart.ipynb

clean:  ## remove .venv and caches; results and data stay
	rm -rf .venv .venv-snakemake .pytest_cache .ruff_cache docs/api *.egg-info
