// Quantizes a model to FP4, loads it, and continues a list of token ids.
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/quantize.h>

#include <cstdio>
#include <filesystem>

int main(int argc, char** argv) {
  namespace mm = metal_marlin;
  if (argc != 3) {
    std::fprintf(stderr, "usage: example SOURCE DESTINATION\n");
    return 2;
  }
  try {
    mm::QuantizeOptions options;
    options.spec = mm::default_spec(mm::Format::kFp4);
    options.overwrite = true;
    options.progress = [](const mm::QuantizeProgress& progress) {
      std::fprintf(stderr, "\r%3.0f%%",
                   100.0 * static_cast<double>(progress.done_weights) / static_cast<double>(progress.total_weights));
      return true;
    };
    mm::quantize(argv[1], argv[2], options);
    const auto model = mm::Model::load(argv[2]);
    mm::GenerateOptions generation;
    generation.max_tokens = 16;
    generation.ignore_end = true;
    const std::vector<mm::TokenId> prompt{1, 2, 3, 4};
    for (const mm::TokenId id : mm::generate(model, prompt, generation).tokens) std::printf("%d ", id);
    std::printf("\n");
  } catch (const mm::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
