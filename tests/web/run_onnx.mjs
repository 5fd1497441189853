// Runs one ONNX file in ONNX Runtime's WebAssembly build, one thread, as a browser would.
//
//   node run_onnx.mjs MODULES MODEL INPUTS OUTPUTS N C H W
//
// MODULES is the folder whose node_modules holds onnxruntime-web. INPUTS holds float32 (N, C, H, W), OUTPUTS gets float32
// (N, classes), both in this machine's byte order. Standard output gets one line of JSON: versions, shape, milliseconds.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { performance } from "node:perf_hooks";

const BATCH = 8;

const [modules, modelPath, inputsPath, outputsPath, ...rest] = process.argv.slice(2);
const [samples, ...shape] = rest.map(Number);
const ort = createRequire(join(resolve(modules), "package.json"))("onnxruntime-web");

// The package asks Node for ort-wasm-simd-threaded.wasm beside its own file; more than one thread would start workers.
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

// Under Node a path would be fetched like an address, so the model is given as bytes.
const session = await ort.InferenceSession.create(new Uint8Array(await readFile(modelPath)), {
  executionProviders: ["wasm"],
  graphOptimizationLevel: "all",
});
const bytes = await readFile(inputsPath);
const inputs = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const size = shape.reduce((product, side) => product * side, 1);
if (inputs.length !== samples * size) {
  throw new Error(`${inputs.length} values are not ${samples} samples of ${shape.join("x")}`);
}

const parts = [];
let classes = 0;
const began = performance.now();
for (let start = 0; start < samples; start += BATCH) {
  const count = Math.min(BATCH, samples - start);
  const batch = inputs.slice(start * size, (start + count) * size);
  const { logits } = await session.run({ input: new ort.Tensor("float32", batch, [count, ...shape]) });
  if (logits.type !== "float32" || logits.dims[0] !== count) {
    throw new Error(`logits are ${logits.type} ${logits.dims.join("x")}`);
  }
  classes = logits.dims[1];
  parts.push(Buffer.from(Float32Array.from(logits.data).buffer));
}
const milliseconds = performance.now() - began;
await writeFile(outputsPath, Buffer.concat(parts));
console.log(
  JSON.stringify({ node: process.version, ort: ort.env.versions.web, threads: ort.env.wasm.numThreads, samples, classes, milliseconds }),
);
