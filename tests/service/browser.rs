//! The pages and the product page's sample, in a real browser.
