#include "formats/spm.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

struct zoe_spm {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" zoe_spm *zoe_spm_open(const void *data, size_t size, char *error, size_t error_size) try {
    auto spm = std::make_unique<zoe_spm>();
    auto status = spm->processor.LoadFromSerializedProto({static_cast<const char *>(data), size});
    if (status.ok()) return spm.release();
    std::snprintf(error, error_size, "%s", status.ToString().c_str());
    return nullptr;
} catch (const std::exception &exception) {
    std::snprintf(error, error_size, "%s", exception.what());
    return nullptr;
}

extern "C" void zoe_spm_close(zoe_spm *spm) {
    delete spm;
}

extern "C" int zoe_spm_size(const zoe_spm *spm) {
    return spm->processor.GetPieceSize();
}

extern "C" int zoe_spm_eos(const zoe_spm *spm) {
    return spm->processor.eos_id();
}

extern "C" int zoe_spm_encode(const zoe_spm *spm, const char *text, size_t length, int32_t *ids, int room, char *error,
                              size_t error_size) try {
    std::vector<int> found;
    auto status = spm->processor.Encode({text, length}, &found);
    if (!status.ok()) {
        std::snprintf(error, error_size, "%s", status.ToString().c_str());
        return -1;
    }
    for (int i = 0; i < room && i < static_cast<int>(found.size()); i++) ids[i] = found[i];
    return static_cast<int>(found.size());
} catch (const std::exception &exception) {
    std::snprintf(error, error_size, "%s", exception.what());
    return -1;
}
