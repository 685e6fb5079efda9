const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]
/** Signature, length and name of the first chunk, width, height. */
const headerLength = 24

/** Size in pixels of a PNG image; undefined for other bytes. Runs under Bare. */
export function pngSize (bytes: Uint8Array): { width: number, height: number } | undefined {
  if (bytes.byteLength < headerLength || signature.some((byte, index) => bytes[index] !== byte)) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, headerLength)
  return { width: view.getUint32(16), height: view.getUint32(20) }
}
