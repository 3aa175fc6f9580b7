# Two commands: `make book` and `make test`. Both set up what they need, and need the network only for that.
#   make book FRESH=1    executes every chapter, not only the changed ones
#   make book STRICT=1   builds every page anew and takes warnings for errors
#   make release         makes the exercise notebooks from solutions/
#   make grade SUBMISSIONS=folder OUT=folder    grades a folder of notebooks (FORCE=1, FRESH=1: see book/instructors.md)
#   make real-model      the whole recipe on SmolLM2-135M, in at most 40 minutes; writes src/lab/records/real-model.json
#   make gpu-check       the labs at size gpu in short, on one GPU held to 15 GB, beside TRL; writes src/lab/records/gpu-check.json
#   make lock            resolves requirements.in into requirements.txt again

PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
READY := .venv/ready

.PHONY: book test notebooks release grade real-model gpu-check lock clean

book: notebooks
	$(BIN)/jupyter-book build . $(if $(STRICT),--all --warningiserror --keep-going)
	@echo "The book: $(CURDIR)/_build/html/index.html"

notebooks: $(READY)
	$(BIN)/python -m tools.notebooks $(if $(FRESH),--fresh)

release: $(READY)
	$(BIN)/python -m tools.release

grade: $(READY)
	$(if $(and $(SUBMISSIONS),$(OUT)),,$(error Say which folders: make grade SUBMISSIONS=folder OUT=folder))
	@$(BIN)/python -m tools.grade "$(SUBMISSIONS)" "$(OUT)" $(if $(FORCE),--force) $(if $(FRESH),--fresh)

# Killed, it goes on with the same command. Alone on the machine: two trainings at once are many times slower.
real-model: $(READY)
	$(BIN)/python -m lab.real --out src/lab/records/real-model.json

gpu-check: $(READY)
	$(BIN)/python -m lab.gpu_check --out src/lab/records/gpu-check.json

# The page tests look at the built book, so it is built first. Chapters and tests run side by side, each on one thread: on
# models this small a second thread gains little, and two processes of two threads on two cores would stand in each other's
# way. The slowest chapter starts first.
test: book
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval-lax --nbval-current-env -n auto --dist loadfile --no-loadscope-reorder \
		$$($(BIN)/python -m tools.chapters) tests

$(READY): requirements.txt requirements-nodeps.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -r requirements-nodeps.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@echo done > $@

# torch itself pins the CUDA packages of its default Linux build. They are left out of the lock, so that a CPU build
# of the same torch version does not bring gigabytes that it never loads.
lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --annotation-style line \
		--custom-compile-command "make lock" requirements.in --output-file requirements.txt
	sed -i.old -E '/^(nvidia-|cuda-|triton)/d' requirements.txt && rm requirements.txt.old

clean:
	rm -rf _build .venv
