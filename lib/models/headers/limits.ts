/**
 * Limits of safetensors and GGUF headers. Each is far above what real files need (the largest known: a 10 MB GGUF
 * vocabulary, 7,000 tensors), and so low that a hostile file costs at most a second of one core and 100 megabytes.
 */
export const limits = {
  /** Bytes. */
  header: 32 * 1024 * 1024,
  tensors: 100_000,
  metadataEntries: 10_000,
  /** Characters, each for tensor names and metadata keys. */
  name: 1024,
  /** Characters of one metadata value; a longer one (a thumbnail, say) is skipped. */
  metadataValue: 2 * 1024 * 1024,
  /** Characters of all metadata values together. */
  metadata: 8 * 1024 * 1024,
  dimensions: 8,
  /** Nesting of skipped JSON values and GGUF arrays. */
  depth: 16
} as const
