# Two commands for newcomers; everything else is in CMakePresets.json.
#   make demo   a real model, quantized to FP4 and writing text
#   make test   every test
.PHONY: demo test build package status check-long fuzz format lint

# OPTIONS: of CMake, say -DMETAL_MARLIN_CUDA=OFF.
build:
	tools/install_dependencies.sh shaders tests
	cmake --preset release $(OPTIONS)
	cmake --build --preset release

demo:
	tools/demo.sh

# One process more than cores, for some wait.
test: build
	ctest --preset release --parallel 3

# A .deb and a .tar.gz of the program with its CPU backend, in build/user.
package:
	tools/install_dependencies.sh
	tools/build_program.sh
	cd build/user && cpack -G "DEB;TGZ"

# docs/STATUS.md
status: build
	tools/make_status.py build/release/bin/metal-marlin

# Long checks, not part of CI: fuzzing, sanitizers over the whole suite, mutants, real data. PARTS: some of them.
check-long:
	tools/check_long.sh $(PARTS)

# Parsers of outside data; tests/fuzz has one target each. FUZZ_SECONDS: for each; PARSERS: some of them.
FUZZ_SECONDS = 60
PARSERS = safetensors sequence gguf json config tokenizer chat_template grammar tool_calls npy onnx metallib request

fuzz:
	tools/install_dependencies.sh shaders fuzz
	cmake --preset fuzz
	cmake --build --preset fuzz --target $(PARSERS:%=fuzz_%)
	for parser in $(PARSERS); do \
	  echo "parser $$parser" && mkdir -p build/fuzz/corpus/$$parser && \
	  build/fuzz/tests/fuzz/fuzz_$$parser -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -max_len=65536 \
	    build/fuzz/corpus/$$parser tests/fuzz/corpus/$$parser || exit 1; \
	done

format:
	git ls-files '*.cpp' '*.h' | xargs clang-format -i

# CHECKS are added to those of .clang-tidy, or taken away.
lint:
	git ls-files '*.cpp' '*.h' | xargs clang-format --dry-run --Werror
	git ls-files '*.sh' .ci/run | xargs tools/lint_shell.py
	tools/check_includes.py
	cmake --build build/release --target metal_marlin_onnx  # its header
	# The kernels are one text: one instruction set stands for all.
	# Files are read as they are compiled, several as one.
	run-clang-tidy -quiet -extra-arg=-Wno-unknown-warning-option -p build/release -checks='$(CHECKS)' '/src/(CMakeFiles/metal_marlin(_unhurried|_self_test)?.dir/Unity/|cli/|backends/msl/(metal/|self_test))|/metal_marlin_recorded_metal.dir/Unity/|/src/.*_plain\.cpp$$'
