#include "emit.h"

#include <fmt/format.h>
#include <llvm/Analysis/TargetTransformInfo.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/FileUtilities.h>
#include <llvm/Support/Process.h>
#include <llvm/Support/Program.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/Transforms/InstCombine/InstCombine.h>
#include <llvm/Transforms/Instrumentation/SanitizerCoverage.h>
#include <llvm/Transforms/Scalar/EarlyCSE.h>
#include <llvm/Transforms/Scalar/SROA.h>
#include <llvm/Transforms/Scalar/SimplifyCFG.h>
#include <llvm/Transforms/Utils/LowerMemIntrinsics.h>

#include <cstdlib>
#include <filesystem>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

struct Features {
  const char* triple;
  const char* cpu;
  const char* features;
};

// The same processors as compile.py's.
Features features(const LowerOptions& options) {
  if (options.machine == Machine::kPtx)
    return {"nvptx64-nvidia-cuda", options.gpu.c_str(), options.gpu == "sm_90" ? "+ptx80" : "+ptx70"};
#if defined(__aarch64__)
  return {"aarch64-unknown-linux-gnu", "generic", "+v8.2a,+fp-armv8,+neon"};
#else
  return {"x86_64-unknown-linux-gnu", "x86-64-v3", ""};
#endif
}

// One processor for all functions, whatever the definitions were compiled for.
void set_processor(llvm::Module& module, const LowerOptions& options) {
  const Features target = features(options);
  for (llvm::Function& function : module.functions()) {
    function.removeFnAttr("target-cpu");
    function.removeFnAttr("target-features");
    function.removeFnAttr("tune-cpu");
    if (function.isDeclaration()) continue;
    function.addFnAttr("target-cpu", target.cpu);
    if (*target.features != 0) function.addFnAttr("target-features", target.features);
  }
}

// Copies of memory as loads and stores, which the detectors see.
void expand_copies(llvm::Function& function, llvm::TargetMachine& machine) {
  const llvm::TargetTransformInfo costs = machine.getTargetTransformInfo(function);
  std::vector<llvm::MemIntrinsic*> found;
  for (llvm::Instruction& instruction : llvm::instructions(function)) {
    if (auto* const memory = llvm::dyn_cast<llvm::MemIntrinsic>(&instruction)) found.push_back(memory);
  }
  for (llvm::MemIntrinsic* const memory : found) {
    if (auto* const copy = llvm::dyn_cast<llvm::MemCpyInst>(memory)) {
      llvm::expandMemCpyAsLoop(copy, costs);
    } else if (auto* const move = llvm::dyn_cast<llvm::MemMoveInst>(memory)) {
      if (!llvm::expandMemMoveAsLoop(move, costs)) continue;
    } else {
      llvm::expandMemSetAsLoop(llvm::cast<llvm::MemSetInst>(memory));
    }
    memory->eraseFromParent();
  }
}

// The executor takes an access of 16 bytes for one that must lie at a multiple of 16: what is
// promised less goes by elements.
void split_unaligned(llvm::Function& function) {
  const llvm::DataLayout& layout = function.getParent()->getDataLayout();
  for (llvm::Instruction& instruction : llvm::make_early_inc_range(llvm::instructions(function))) {
    auto* const load = llvm::dyn_cast<llvm::LoadInst>(&instruction);
    auto* const store = llvm::dyn_cast<llvm::StoreInst>(&instruction);
    if (load == nullptr && store == nullptr) continue;
    auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(llvm::getLoadStoreType(&instruction));
    const llvm::Align alignment = llvm::getLoadStoreAlignment(&instruction);
    if (vector == nullptr || layout.getTypeStoreSizeInBits(vector->getElementType()) % 8 != 0) continue;
    const std::uint64_t size = layout.getTypeStoreSize(vector).getFixedValue();
    if (size <= 16 && (alignment.value() >= size || size < 16) && llvm::isPowerOf2_64(size)) continue;
    llvm::IRBuilder<> builder(&instruction);
    llvm::Value* const pointer = llvm::getLoadStorePointerOperand(&instruction);
    llvm::Type* const element = vector->getElementType();
    const std::uint64_t step = layout.getTypeStoreSize(element).getFixedValue();
    llvm::Value* loaded = llvm::PoisonValue::get(vector);
    for (unsigned i = 0; i < vector->getNumElements(); ++i) {
      llvm::Value* const at = builder.CreateConstInBoundsGEP1_64(element, pointer, i);
      const llvm::Align part = llvm::commonAlignment(alignment, i * step);
      if (load != nullptr) {
        loaded = builder.CreateInsertElement(loaded, builder.CreateAlignedLoad(element, at, part), i);
      } else {
        builder.CreateAlignedStore(builder.CreateExtractElement(store->getValueOperand(), i), at, part);
      }
    }
    if (load != nullptr) load->replaceAllUsesWith(loaded);
    instruction.eraseFromParent();
  }
}

class Optimiser {
 public:
  explicit Optimiser(llvm::TargetMachine& machine) : builder_(&machine) {
    builder_.registerModuleAnalyses(modules_);
    builder_.registerCGSCCAnalyses(components_);
    builder_.registerFunctionAnalyses(functions_);
    builder_.registerLoopAnalyses(loops_);
    builder_.crossRegisterProxies(loops_, functions_, components_, modules_);
  }

  // Every load stays where the kernel has it, once.
  void instrument(llvm::Module& module) {
    llvm::FunctionPassManager tidy;
    tidy.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
    tidy.addPass(llvm::EarlyCSEPass());
    tidy.addPass(llvm::InstCombinePass());
    tidy.addPass(llvm::SimplifyCFGPass());
    llvm::ModulePassManager passes;
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(std::move(tidy)));
    passes.run(module, modules_);
    for (llvm::Function& function : module.functions()) split_unaligned(function);
    llvm::SanitizerCoverageOptions options;
    options.CoverageType = llvm::SanitizerCoverageOptions::SCK_Function;
    options.TraceLoads = options.TraceStores = true;
    modules_.clear();
    llvm::ModulePassManager traces;
    traces.addPass(llvm::SanitizerCoveragePass(options));
    traces.run(module, modules_);
  }

  void optimise(llvm::Module& module, llvm::OptimizationLevel level) {
    builder_.buildPerModuleDefaultPipeline(level).run(module, modules_);
  }

  // What keeps code small at little cost.
  void tidy(llvm::Module& module) {
    llvm::ModulePassManager passes;
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(llvm::SROAPass(llvm::SROAOptions::PreserveCFG)));
    passes.run(module, modules_);
  }

 private:
  llvm::LoopAnalysisManager loops_;
  llvm::FunctionAnalysisManager functions_;
  llvm::CGSCCAnalysisManager components_;
  llvm::ModuleAnalysisManager modules_;
  llvm::PassBuilder builder_;
};

void link_shared(const std::string& object, const std::string& output) {
  const char* const chosen = std::getenv("METAL_MARLIN_CLANG");
  const std::string name = chosen != nullptr ? chosen : "clang-19";
  const auto clang = llvm::sys::findProgramByName(name);
  if (!clang) throw Error(ErrorCode::kNotFound, fmt::format("{}, which links shared libraries, is not there", name));
  std::string problem;
  const int code = llvm::sys::ExecuteAndWait(*clang, {*clang, "-shared", "-nostdlib", object, "-o", output},
                                             std::nullopt, {}, 0, 0, &problem);
  if (code != 0) throw Error(ErrorCode::kIo, fmt::format("{} -shared: exit code {} {}", name, code, problem));
}

}  // namespace

void initialise_targets() {
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  LLVMInitializeNVPTXTargetInfo();
  LLVMInitializeNVPTXTarget();
  LLVMInitializeNVPTXTargetMC();
  LLVMInitializeNVPTXAsmPrinter();
}

std::unique_ptr<llvm::TargetMachine> target_machine(const LowerOptions& options) {
  const Features target = features(options);
  std::string problem;
  const llvm::Target* const found = llvm::TargetRegistry::lookupTarget(target.triple, problem);
  if (found == nullptr) throw Error(ErrorCode::kUnsupported, "this LLVM: " + problem);
  llvm::TargetOptions how;
  how.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  const llvm::CodeGenOptLevel level = options.quick        ? llvm::CodeGenOptLevel::None
                                      : options.instrument ? llvm::CodeGenOptLevel::Less
                                                           : llvm::CodeGenOptLevel::Default;
  std::unique_ptr<llvm::TargetMachine> machine(found->createTargetMachine(target.triple, target.cpu, target.features,
                                                                          how, llvm::Reloc::PIC_, std::nullopt, level));
  if (machine == nullptr) throw Error(ErrorCode::kUnsupported, fmt::format("this LLVM has no {}", target.triple));
  return machine;
}

void emit(llvm::Module& module, llvm::TargetMachine& machine, const LowerOptions& options,
          llvm::raw_pwrite_stream& out) {
  module.setTargetTriple(machine.getTargetTriple().str());
  module.setDataLayout(machine.createDataLayout());
  set_processor(module, options);
  {
    Optimiser optimiser(machine);
    if (options.quick) {
      optimiser.tidy(module);
    } else if (options.instrument) {
      for (llvm::Function& function : module.functions()) {
        if (!function.isDeclaration()) expand_copies(function, machine);
      }
      optimiser.instrument(module);
    } else {
      optimiser.optimise(module,
                         options.machine == Machine::kPtx ? llvm::OptimizationLevel::O3 : llvm::OptimizationLevel::O2);
    }
  }
  llvm::legacy::PassManager passes;
  const auto type =
      options.machine == Machine::kPtx ? llvm::CodeGenFileType::AssemblyFile : llvm::CodeGenFileType::ObjectFile;
  if (machine.addPassesToEmitFile(passes, out, nullptr, type))
    throw Error(ErrorCode::kInternal, "LLVM emits no such file for this machine");
  passes.run(module);
}

void emit_file(llvm::Module& module, Product product, const LowerOptions& options, const std::string& output) {
  const std::string made = fmt::format("{}.{}.tmp", output, llvm::sys::Process::getProcessId());
  const std::string object = product == Product::kShared ? made + ".o" : made;
  const llvm::FileRemover remove_object(object);
  const llvm::FileRemover remove_made(made);
  {
    std::error_code problem;
    llvm::raw_fd_ostream out(object, problem);
    if (problem) throw Error(ErrorCode::kIo, fmt::format("{}: {}", output, problem.message()));
    emit(module, *target_machine(options), options, out);
    out.close();
    if (out.has_error()) throw Error(ErrorCode::kIo, fmt::format("{}: {}", output, out.error().message()));
  }
  if (product == Product::kShared) link_shared(object, made);
  std::filesystem::rename(made, output);
}

}  // namespace metal_marlin::air
