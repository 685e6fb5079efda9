/** The formats that images may come in, as sharp calls them. */
export const formats: readonly string[] = ['png', 'jpeg', 'webp']

/** By the first bytes, as Latin-1. Of formats that are not read here only the name is used, for a message. */
const signatures: ReadonlyArray<[format: string, start: RegExp]> = [
  ['png', /^\x89PNG\r\n/],
  ['jpeg', /^\xff\xd8\xff/],
  ['webp', /^RIFF[^]{4}WEBP/],
  ['gif', /^GIF8/],
  ['tiff', /^(?:II[*+]\0|MM\0[*+])/],
  ['avif', /^[^]{4}ftypavi[fs]/],
  ['heif', /^[^]{4}ftyp(?:hei|hev|mif|msf)/],
  ['jxl', /^(?:\xff\n|\0\0\0\fJXL )/],
  ['bmp', /^BM[^]{4}\0\0\0\0/],
  ['svg', /^(?:\xef\xbb\xbf)?\s*<(?:svg|(?:\?xml|!)[^]*<svg)[\s>]/i]
]
/** Bytes: where the prologue of an SVG ends, if it is no book. */
const longestStart = 1024

/** What the bytes begin like; they may well be damaged further on. Undefined for what is not known. */
export function formatOf (bytes: Uint8Array): string | undefined {
  const start = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, longestStart)).toString('latin1')
  return signatures.find(([, signature]) => signature.test(start))?.[0]
}
