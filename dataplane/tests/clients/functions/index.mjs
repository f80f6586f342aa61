// A Node function for the official runtime client.
export const handler = async (event) => {
  if (event.do === "raise") throw new TypeError("as asked");
  return { node: event };
};
