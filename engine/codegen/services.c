// services.c: what kernels, interpreted or compiled, call the engine for.
#include "engine/codegen/kernel.h"
#include "engine/core/quantize.h"
#include "engine/core/random.h"

const pg_kernel_services pg_services = {.draw_f32 = pg_draw_f32,
                                        .draw_f64 = pg_draw_f64,
                                        .decode_f32 = pg_decode_f32,
                                        .decode_f64 = pg_decode_f64,
                                        .encode_f32 = pg_encode_f32,
                                        .encode_f64 = pg_encode_f64};
