#include "backends/msl/host/segments.h"

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#include <mach-o/loader.h>
#else
#include <link.h>
#endif

namespace metal_marlin::msl {

#if defined(__APPLE__)

std::vector<AddressRange> loaded_segments() {
  std::vector<AddressRange> out;
  for (std::uint32_t image = 0; image < _dyld_image_count(); ++image) {
    const auto* const header = reinterpret_cast<const mach_header_64*>(_dyld_get_image_header(image));
    if (header == nullptr || header->magic != MH_MAGIC_64) continue;
    const auto slide = static_cast<std::uintptr_t>(_dyld_get_image_vmaddr_slide(image));
    const auto* command = reinterpret_cast<const load_command*>(header + 1);
    for (std::uint32_t i = 0; i < header->ncmds; ++i) {
      const auto* const segment = reinterpret_cast<const segment_command_64*>(command);
      // Not the page of zeros, which nobody may read.
      if (command->cmd == LC_SEGMENT_64 && segment->initprot != 0)
        out.push_back({segment->vmaddr + slide, segment->vmaddr + slide + segment->vmsize});
      command = reinterpret_cast<const load_command*>(reinterpret_cast<const char*>(command) + command->cmdsize);
    }
  }
  return out;
}

#else

std::vector<AddressRange> loaded_segments() {
  std::vector<AddressRange> out;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const std::uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          static_cast<std::vector<AddressRange>*>(data)->push_back({begin, begin + header.p_memsz});
        }
        return 0;
      },
      &out);
  return out;
}

#endif

}  // namespace metal_marlin::msl
