# Everything done twice has a target here; `make help` lists them.
PYTHON ?= python3
OUT    ?= results/quickstart
SEED   ?= 0

BIN := .venv/bin
# Keep the memory of large tensors between steps instead of giving it back to the system (glibc): a CPU step of
# the quickstart's CT-Net then took 12 to 16 % less time in three pairs of runs (2 cores; no record kept). Elsewhere
# these do nothing.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
# Prints what the notebook prints, a line an epoch, and nothing else; a failed notebook still says why.
RUN := $(KEEP_MEMORY) $(BIN)/papermill --kernel python3 --no-progress-bar --log-level ERROR --stdout-file -
STRIP := --keep-id --extra-keys 'metadata.papermill metadata.widgets cell.metadata.papermill cell.metadata.execution'

.DEFAULT_GOAL := help
.PHONY: help study costs videos evaluate transfer ablations report accuracy saliency teach html benchmark bench-saliency bench-explorers bench-loading bench-listing test test-all lint format lab clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks,onnx,test,docs]'
	@mkdir -p .venv/etc/ipython && echo 'c.IPKernelApp.log_level = 50' > .venv/etc/ipython/ipython_kernel_config.py
	@touch $@

study: .venv/installed  ## train TSN and CT-Net on the built-in data; the summary goes to $(OUT)
	@mkdir -p $(OUT)
	@$(BIN)/python -m ctlib arrow
	@$(MAKE) --no-print-directory -j2 train-TSN train-CT-Net
	@$(RUN) notebooks/quickstart.ipynb $(OUT)/quickstart.ipynb -p runs_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --no-input --output-dir $(OUT) $(OUT)/quickstart.ipynb
	@echo "read $(OUT)/quickstart.html"

# Two runs side by side, a core each: the quickest way through two cores.
train-TSN: MODEL = tsn_quickstart
train-CT-Net: MODEL = ctnet_quickstart
.PHONY: train-TSN train-CT-Net
train-TSN train-CT-Net: train-%:
	@$(RUN) notebooks/train.ipynb $(OUT)/train_$*_seed$(SEED).ipynb -p name $* -p model $(MODEL) -p seed $(SEED) -p out_dir $(OUT) -p device cpu

costs: OUT = results/costs
costs: .venv/installed  ## count every cost that the paper publishes; the page goes to results/costs
	@mkdir -p $(OUT)
	@$(RUN) notebooks/costs.ipynb $(OUT)/costs.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/costs.ipynb
	@echo "read $(OUT)/costs.html"

videos: OUT = results/your_own_videos
videos: .venv/installed  ## from a folder of clips (made ones) to a trained and tested network; to results/your_own_videos
	@mkdir -p $(OUT)
	@$(RUN) notebooks/your_own_videos.ipynb $(OUT)/your_own_videos.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/your_own_videos.ipynb
	@echo "read $(OUT)/your_own_videos.html"

evaluate: OUT = results/evaluate
evaluate: .venv/installed  ## test the quickstart's networks with more views and as an ensemble; to results/evaluate
	@mkdir -p $(OUT)
	@$(RUN) notebooks/evaluate.ipynb $(OUT)/evaluate.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/evaluate.ipynb
	@echo "read $(OUT)/evaluate.html"

transfer: OUT = results/transfer
transfer: .venv/installed  ## what a trained network brings to other data sets (made ones); to results/transfer
	@mkdir -p $(OUT)
	@$(RUN) notebooks/transfer.ipynb $(OUT)/transfer.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/transfer.ipynb
	@echo "read $(OUT)/transfer.html"

SEEDS ?= 0 1 2
ablations: OUT = results/ablations
ablations: .venv/installed  ## every ablation at laptop scale, two runs side by side, an estimated 2 to 3 hours a seed when nothing else runs; to results/ablations
	@$(KEEP_MEMORY) $(BIN)/python -m ctlib ablations $(OUT) --seeds $(SEEDS)

report: OUT = results/report
report: .venv/installed  ## what of the paper reproduces, from the records of the ablations; to results/report.html
	@mkdir -p $(OUT)
	@$(RUN) notebooks/report.ipynb $(OUT)/report.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --no-input --output-dir $(dir $(OUT)) $(OUT)/report.ipynb
	@echo "read $(dir $(OUT))report.html"

accuracy: OUT = results/accuracy_vs_gflops
accuracy: .venv/installed  ## accuracy against GFLOPs and time, published and measured; to results/accuracy_vs_gflops
	@mkdir -p $(OUT)
	@$(RUN) notebooks/accuracy_vs_gflops.ipynb $(OUT)/accuracy_vs_gflops.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/accuracy_vs_gflops.ipynb
	@echo "read $(OUT)/accuracy_vs_gflops.html"

saliency: OUT = results/saliency_tubes
saliency: .venv/installed  ## where each network looks, and whether the object is there; to results/saliency_tubes
	@mkdir -p $(OUT)
	@$(RUN) notebooks/saliency_tubes.ipynb $(OUT)/saliency_tubes.ipynb -p out_dir $(OUT)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir $(OUT) $(OUT)/saliency_tubes.ipynb
	@echo "read $(OUT)/saliency_tubes.html"

TEACHING := $(patsubst notebooks/learn/%,results/teaching/%,$(wildcard notebooks/learn/[1-9]_*.ipynb))
teach: $(TEACHING)  ## run the teaching notebooks again if they or ctlib changed; to results/teaching

results/teaching/%.ipynb: notebooks/learn/%.ipynb $(wildcard ctlib/*.py ctlib/*/*.py) | .venv/installed
	@mkdir -p $(@D)
	@echo "running $<"
	@$(RUN) $< $@ > /dev/null || (mv $@ $(@:.ipynb=_failed.ipynb) && exit 1)

html: OUT = results/site
html: teach  ## all executed notebooks as a static site, with an index; to results/site
	@$(BIN)/python -m ctlib site $(OUT)

bench-saliency: .venv/installed  ## what explaining a clip costs, over a forward pass
	@$(BIN)/python benchmarks/saliency.py

bench-explorers: .venv/installed  ## seconds from a slider's move to the picture
	@$(BIN)/python benchmarks/explorers.py

benchmark: .venv/installed  ## seconds and memory of CT-Net, TSN, a plain CT-Net and others, in turn (12 minutes)
	@mkdir -p results/benchmarks
	@$(BIN)/python benchmarks/speed.py --record results/benchmarks/speed.json --figure results/benchmarks/speed
	@$(KEEP_MEMORY) $(BIN)/python benchmarks/speed.py --sections ways training --record results/benchmarks/speed_memory_kept.json
	@$(KEEP_MEMORY) $(BIN)/python benchmarks/epoch.py --record results/benchmarks/epoch.json

bench-loading: .venv/installed  ## clips a second that one core loads, ours and other ways (2 minutes)
	@$(BIN)/python benchmarks/loading.py

bench-listing: .venv/installed  ## seconds and memory to list 240,000 videos (2 minutes)
	@$(BIN)/python benchmarks/listing.py

test: .venv/installed  ## all tests but the slow ones (at most 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations 15

test-all: .venv/installed  ## all tests
	$(BIN)/python -m pytest

lint: .venv/installed  ## ruff over modules and notebooks; stored outputs are refused
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb notebooks/learn/*.ipynb

format: .venv/installed  ## mend what `make lint` can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb notebooks/learn/*.ipynb

lab: .venv/installed  ## JupyterLab on notebooks/
	$(BIN)/jupyter lab --notebook-dir=. notebooks/quickstart.ipynb

clean:  ## remove .venv and caches; results and data stay
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
