/** What an image process makes of an image. */
export interface ImageTask {
  /** The part to use, in the orientation of the camera. */
  part?: { left: number, top: number, width: number, height: number }
  /** Pixels to scale to; without `height` in proportion. */
  resize?: { width: number, height?: number }
  /** Replaces transparency; the result has colours on white, and on black it is a mask, which is grey. */
  background?: 'white' | 'black'
  /** Whether what is transparent in a mask is drawn anew, whatever colours are beside it. */
  holesCount?: boolean
  /** Whether to refuse what decoders only warn of. */
  isStrict?: boolean
  format: 'png' | 'jpeg' | 'webp'
  /** 1…100, of JPEG and WebP. */
  quality?: number
  /** zlib's scale, of PNG. */
  compressionLevel?: number
}

/** A task with its bounds. */
export interface BoundedTask extends ImageTask {
  /** Pixels that the image has, by its header. */
  pixels: number
  /** Bytes that the process may take in memory. */
  memory: number
}

/** The answer, with an image or an error. */
export interface TaskResult {
  /** A clause from the decoder. */
  error?: string
  /** Whether the process ends with it. */
  isLast?: boolean
}
