/** Formats of attachments, by the names of sharp. */
export const formats: readonly string[] = ['png', 'jpeg', 'webp']

/** By the first bytes as Latin-1. Other formats are here for their names in messages. */
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
/** Bytes that are searched for the start of an SVG. */
const longestStart = 1024

/** Format by the first bytes, even if later ones are damaged; undefined for unknown ones. */
export function formatOf (bytes: Uint8Array): string | undefined {
  const start = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, longestStart)).toString('latin1')
  return signatures.find(([, signature]) => signature.test(start))?.[0]
}
