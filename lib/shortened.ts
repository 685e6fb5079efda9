/** The first 80 code units and "…" of a longer text, never half of a character: not everybody could read that as JSON. */
export function shortened (text: string): string {
  return text.length > 80 ? `${text.slice(0, 80).replace(/[\ud800-\udbff]$/, '')}…` : text
}
