/** ISO 8601 in UTC, as everywhere on the wire. @param milliseconds since 1970 */
export function isoTime (milliseconds: number): string {
  return new Date(milliseconds).toISOString()
}
