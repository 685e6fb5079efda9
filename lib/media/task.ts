/** What an image process makes of an image. */
export interface ImageTask {
  /** The part that is used, of the image as its camera was held. */
  part?: { left: number, top: number, width: number, height: number }
  /** Pixels to scale to; without the height in proportion. */
  resize?: { width: number, height?: number }
  /** What to lay below a transparent image; the result has colours on white and is grey on black. */
  background?: 'white' | 'black'
  format: 'png' | 'jpeg' | 'webp'
  /** 1…100, of JPEG and WebP. */
  quality?: number
  /** zlib's scale, of PNG. */
  compressionLevel?: number
}

/** A task with its bounds, as it is sent. */
export interface BoundedTask extends ImageTask {
  /** Pixels that the image has, by its header. */
  pixels: number
  /** Bytes that the process may take in memory. */
  memory: number
}

/** The answer: the image comes with it, or the reason why there is none. */
export interface TaskResult {
  /** A sentence part, from the decoder. */
  error?: string
  /** Whether the process ends with it. */
  isLast?: boolean
}
