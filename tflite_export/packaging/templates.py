"""Texts of the C++ source package; see `c_source`."""

SOURCE = """\
#include "model.h"

namespace {namespace} {{

// TensorFlow Lite Micro reads the flatbuffer in place and needs it aligned.
alignas({alignment}) const unsigned char kModel[] = {{
{data}}};
const size_t kModelBytes = sizeof(kModel);

}}  // namespace {namespace}
"""

HEADER = """\
#ifndef {guard}
#define {guard}

#include <stddef.h>
#include <stdint.h>

namespace {namespace} {{

extern const unsigned char kModel[];
extern const size_t kModelBytes;

// Tensor arena measured with TensorFlow Lite Micro's portable kernels on a 64-bit computer.
// 32-bit pointers need less; kernels such as CMSIS-NN's may need scratch memory on top.
constexpr size_t kArenaBytes = {arena};

// real = scale * (integer - zero_point); scale 0 where a tensor is not quantized.
struct Endpoint {{
  const char* name;
  float scale;
  int32_t zero_point;
  size_t elements;
}};

constexpr Endpoint kInputs[{input_count}] = {{
{inputs}}};
constexpr Endpoint kOutputs[{output_count}] = {{
{outputs}}};

}}  // namespace {namespace}

#endif  // {guard}
"""

OPERATORS = """\
#ifndef {guard}
#define {guard}

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace {namespace} {{

constexpr int kOperators = {count};
using Resolver = tflite::MicroMutableOpResolver<kOperators>;

// Registers the operators of this model and no others, so that the linker drops the rest.
inline TfLiteStatus RegisterOperators(Resolver& resolver) {{
{calls}
  return kTfLiteOk;
}}

}}  // namespace {namespace}

#endif  // {guard}
"""

CALL = "if (resolver.{method}() != kTfLiteOk) return kTfLiteError;"

README = """\
# Model for TensorFlow Lite Micro

| file | content | needs |
|---|---|---|
| `model.h`, `model.cc` | the model as an aligned array, arena size, scales | a C++17 compiler |
| `ops.h` | registration of the operators this model needs | the headers of TensorFlow Lite Micro |

Flash: {size} bytes for the model, plus the code of these operators: {operators}.
RAM: a tensor arena of {arena} bytes, measured with the portable kernels on a 64-bit computer. Where
`AllocateTensors` fails with optimized kernels, which ask for scratch memory, make it larger.

| | name | type | shape | scale | zero point |
|---|---|---|---|---|---|
{endpoints}

real = scale * (integer - zero point)

```cpp
#include "model.h"
#include "ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

alignas(16) static uint8_t arena[{namespace}::kArenaBytes];

TfLiteStatus Run() {{
  static {namespace}::Resolver resolver;
  if ({namespace}::RegisterOperators(resolver) != kTfLiteOk) return kTfLiteError;
  static tflite::MicroInterpreter interpreter(
      tflite::GetModel({namespace}::kModel), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return kTfLiteError;
  // Fill interpreter.input(0)->data, invoke, read interpreter.output(0)->data.
  return interpreter.Invoke();
}}
```
"""
