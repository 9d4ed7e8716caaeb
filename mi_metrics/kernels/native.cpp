// What a library says about itself.
#include "native.h"

// Changes with the interface; native.py has the same number.
MI_EXPORT int64_t mi_metrics_abi() { return 2; }

// Names the sources that the library was built of: build.py's fingerprint.
MI_EXPORT const char* mi_metrics_fingerprint() { return MI_METRICS_FINGERPRINT; }

MI_EXPORT int64_t mi_metrics_has_avx2() { return mi::has_avx2(); }
